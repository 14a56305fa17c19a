"""Linear probing before fine-tuning: the classifier starts as the best linear one on the frozen features.

A head that starts from noise sends large gradients through pretrained layers and bends them before it has learnt
anything; starting from the probe avoids it (LP-FT, Kumar et al. 2022, section 4).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vitrail.data import Preprocess, Source
from vitrail.jobs.inference import Hardware, run_source
from vitrail.jobs.settings import Settings
from vitrail.metrics import fit_linear_probe
from vitrail.models import Backbone


def start_head_from_probe(
    model: Backbone, source: Source, preprocess: Preprocess, settings: Settings, hardware: Hardware
) -> None:
    """Fit a linear probe on the model's pooled features and make it the classifier, in place.

    Args:
        model: in the state that training starts from; left in the mode it was in.
        source: the training pictures, taken as evaluation takes them.
        preprocess: the model's.
        settings: batch size, workers, seed, what to do about broken pictures.
        hardware: where the features are computed.
    """
    training = model.training
    model.to(hardware.device).eval()

    def features(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        return model.pool(model.features(images))

    outputs = run_source(features, source, preprocess, settings, hardware, "linear probe")
    probe = fit_linear_probe(outputs.values, outputs.labels, model.num_classes, settings.seed)
    model.set_classifier(*probe.layer())
    model.train(training)
