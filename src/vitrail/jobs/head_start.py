"""Linear probing before fine-tuning: the classifier starts as the best linear one on the frozen features.

A head that starts from noise sends large gradients through pretrained layers and bends them before it has learnt
anything; starting from the probe avoids it (LP-FT, Kumar et al. 2022, section 4).
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess, Source
from vitrail.jobs.inference import Hardware, run_source
from vitrail.jobs.settings import Settings
from vitrail.metrics import LinearProbe, fit_linear_probe
from vitrail.models import Backbone

FILE = "linear.safetensors"


def save_probe(probe: LinearProbe, folder: Path) -> None:
    """Keep a probe as one linear layer, for ``--head FOLDER``."""
    weight, bias = probe.layer()
    save_file({"weight": weight.contiguous(), "bias": bias.contiguous()}, folder / FILE)


def start_head_from_file(model: Backbone, folder: Path) -> None:
    """Make the linear layer of a probe's folder the classifier, in place.

    Raises:
        VitrailError: there is none, or it was fitted for other features or classes.
    """
    try:
        layer = load_file(folder / FILE)
    except (OSError, SafetensorError) as error:
        raise VitrailError(
            f"head {str(folder)!r} is neither fresh nor probe nor the folder of a finished probe ({error})"
        ) from error
    expected = (model.num_classes, model.num_features)
    if tuple(layer["weight"].shape) != expected:
        raise VitrailError(
            f"{folder}: that probe has {tuple(layer['weight'].shape)} weights, this model's classifier {expected}; "
            "probe the same data, with the pool that the model reads (--model-options pool=class_mean)"
        )
    model.set_classifier(layer["weight"], layer["bias"])


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
        return model.pool(model.read(images))

    outputs = run_source(features, source, preprocess, settings, hardware, "linear probe")
    probe = fit_linear_probe(outputs.values, outputs.labels, model.num_classes, settings.seed)
    model.set_classifier(*(torch.as_tensor(part, device=hardware.device) for part in probe.layer()))
    model.train(training)
