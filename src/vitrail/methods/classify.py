"""Supervised classification: cross-entropy on hard or mixed labels.

The recipe around it (RandAugment, Mixup and CutMix with label smoothing, AdamW, cosine, layer-wise decay) is DeiT's
(Touvron et al. 2021, table 9) and BEiT's (Bao et al. 2022, appendix H). Mixing and smoothing happen where batches are
made; here labels are class numbers or class probabilities, and both have one cross-entropy.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Batch, Method, Progress, Role, VitrailError
from vitrail.models.backbone import Backbone
from vitrail.nn.lora import without_lora


class Classify(Method):
    """Trains a backbone with a classifier on top.

    Args:
        model: has as many outputs as there are classes; frozen parameters stay frozen.
    """

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        if model.num_classes < 2:
            raise VitrailError(
                f"training a classifier needs at least two classes, the model has {model.num_classes} outputs"
            )
        self.model = model

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Mean cross-entropy over the batch, nats."""
        if batch.labels is None:
            raise VitrailError(f"pictures without labels cannot train a classifier: {', '.join(batch.names[:3])}")
        return {"loss": F.cross_entropy(self.model(batch.images).float(), batch.labels)}

    def roles(self) -> dict[str, Role]:
        """The model's own."""
        return {f"model.{name}": role for name, role in self.model.roles().items()}

    def export(self) -> nn.Module:
        """The model; where it learns by low-rank updates, a copy with these folded into its weights."""
        return without_lora(self.model)
