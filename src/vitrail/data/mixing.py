"""Mixup, CutMix and label smoothing: what happens to a batch as a whole."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.transforms import v2

from vitrail.contracts import Batch, VitrailError
from vitrail.data.finish import Finish, Mix


@dataclass(frozen=True)
class Mixing:
    """Mixes each picture and its label with those of another of the batch.

    A batch gets Mixup (Zhang et al. 2018: ``x = lam * x_a + (1 - lam) * x_b``) or CutMix (Yun et al. 2019: a box of
    ``x_b`` pasted into ``x_a``), with ``lam`` drawn from ``Beta(alpha, alpha)`` once per batch; for CutMix ``lam`` is
    corrected to the share that the box, cut at the border, really leaves. Labels are mixed alike. Randomness: torch's
    global generator.

    Attributes:
        num_classes: K, the width of the soft labels.
        mixup: Mixup's alpha; 0 for no Mixup.
        cutmix: CutMix's alpha; 0 for no CutMix.
        switch: probability of CutMix where both are on.
        prob: probability that a batch is mixed at all.
        smoothing: label smoothing (Szegedy et al. 2016): the true class gets ``1 - smoothing + smoothing / K``, every
            other ``smoothing / K``.
    """

    num_classes: int
    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5
    prob: float = 1.0
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise VitrailError(f"Mixing: num_classes must be at least 1, not {self.num_classes}")
        if not (self.mixup >= 0.0 and self.cutmix >= 0.0):
            raise VitrailError(f"Mixing: mixup {self.mixup} and cutmix {self.cutmix} must be 0 or more")
        for name, value in (("switch", self.switch), ("prob", self.prob), ("smoothing", self.smoothing)):
            if not 0.0 <= value <= 1.0:
                raise VitrailError(f"Mixing: {name} must lie in 0 … 1, not {value}")

    def __call__(self, batch: Batch) -> Batch:
        """The mixed batch with ``(B, K)`` float labels; the given batch is left as it is.

        Pictures that are still pixels are mixed when they are finished.

        Raises:
            VitrailError: no labels, a label outside the classes, or extras, which cannot be mixed.
        """
        if batch.labels is None:
            raise VitrailError("Mixing needs labels, and this data set has none")
        if batch.extras:
            raise VitrailError(f"Mixing cannot mix the batch's extras ({', '.join(batch.extras)})")
        labels = self.soften(batch.labels)
        chance, choice = torch.rand(2).tolist()
        if chance >= self.prob or not (self.mixup or self.cutmix):
            return replace(batch, labels=labels)
        mix = self._draw(batch.images, bool(self.cutmix and (choice < self.switch or not self.mixup)))
        labels = labels.roll(1, 0).mul_(1.0 - mix.share).add_(labels.mul(mix.share))
        finish = batch.finish.get("images")
        if isinstance(finish, Finish):
            return replace(batch, labels=labels, finish={**batch.finish, "images": finish.mixed(mix)})
        return replace(batch, images=mix(batch.images.clone()), labels=labels)

    def _draw(self, images: Tensor, cut: bool) -> Mix:
        if cut:
            drawn = v2.CutMix(alpha=self.cutmix, num_classes=self.num_classes).make_params([images])
            return Mix(float(drawn["lam_adjusted"]), drawn["box"])
        return Mix(v2.MixUp(alpha=self.mixup, num_classes=self.num_classes).make_params([images])["lam"])

    def soften(self, labels: Int[Tensor, " b"] | Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Smoothed class probabilities from class numbers, or from probabilities."""
        if labels.ndim == 1:
            wrong = labels[(labels < 0) | (labels >= self.num_classes)]
            if len(wrong):
                raise VitrailError(f"Label {int(wrong[0])} is outside the {self.num_classes} classes (0 …)")
            labels = torch.nn.functional.one_hot(labels, self.num_classes).float()
        elif labels.shape[1] != self.num_classes:
            raise VitrailError(f"Labels for {labels.shape[1]} classes were given to a mixing for {self.num_classes}")
        return labels * (1.0 - self.smoothing) + self.smoothing / self.num_classes
