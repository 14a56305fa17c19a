"""DeiT's distillation: a classifier that learns from labels and from what a teacher answers.

Source: Training data-efficient image transformers & distillation through attention (Touvron et al. 2021).

| section of the paper | here |
|---|---|
| 4 "Soft distillation", equation 2 | :func:`soft_loss` |
| 4 "Hard-label distillation", equation 3 | :func:`hard_loss` |
| the two terms of both equations | :meth:`Distill.forward` |
| 4 "Distillation token" | :func:`both_heads` |
| table 3, "usual" distillation of a student without that token: one head for both | :func:`class_head_twice` |
| 4 "Classification with our approach: joint classifiers" | :meth:`vitrail.models.VisionTransformer.classify` |

Both see one augmented (and mixed) picture: the teacher gets the student's, brought to its own size and normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import Batch, Method, Progress, Role, VitrailError
from vitrail.methods.teacher import Teacher
from vitrail.models.backbone import Backbone
from vitrail.models.vit import VisionTransformer
from vitrail.nn.lora import without_lora
from vitrail.nn.tokens import Tokens


@dataclass(frozen=True)
class DistillOptions:
    """The numbers of DeiT's distillation.

    Attributes:
        kind: ``"hard"``: the teacher's choice is a second label; ``"soft"``: its probabilities are.
        weight: λ, share of the teacher's term in the loss; None for the paper's 0.5 (hard) or 0.1 (soft).
        temperature: τ, divides both sides' logits; soft only.
    """

    kind: Literal["hard", "soft"] = "hard"
    weight: float | None = None
    temperature: float = 3.0

    def __post_init__(self) -> None:
        if self.kind not in ("hard", "soft"):
            raise VitrailError(f"distillation is hard or soft, not {self.kind!r}")
        if self.weight is not None and not 0.0 <= self.weight <= 1.0:
            raise VitrailError(f"the weight of the teacher's term must lie in [0, 1], not {self.weight}")
        if not 0.0 < self.temperature < math.inf:
            raise VitrailError(f"the temperature of distillation must be above 0, not {self.temperature}")

    @property
    def share(self) -> float:
        """The weight that holds."""
        return {"hard": 0.5, "soft": 0.1}[self.kind] if self.weight is None else self.weight


def hard_loss(student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float) -> Float[Tensor, ""]:
    """Cross-entropy with the class that the teacher finds likeliest (equation 3); it knows no temperature."""
    return F.cross_entropy(student, teacher.argmax(dim=1))


def soft_loss(student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float) -> Float[Tensor, ""]:
    """``τ² KL(teacher ‖ student)`` at temperature τ, the mean over the pictures (equation 2).

    The direction is Hinton's (2015) and that of DeiT's code, which also divides by the number of classes; the equation,
    and this, do not.
    """
    ours, theirs = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"hard": hard_loss, "soft": soft_loss}

Heads = Callable[[Tokens], tuple[Tensor, Tensor]]
"""Tokens to the logits that the labels teach and the logits that the teacher teaches."""


def both_heads(model: VisionTransformer) -> Heads:
    """The class token's head for the labels, the distillation token's for the teacher."""
    return model.classify_both


def class_head_twice(model: Backbone) -> Heads:
    """The only head for both."""

    def heads(tokens: Tokens) -> tuple[Tensor, Tensor]:
        logits = model.classify(tokens)
        return logits, logits

    return heads


class Distill(Method):
    """Trains a classifier by labels and by a teacher's answers.

    Args:
        model: the student, with as many outputs as there are classes; frozen parameters stay frozen.
        teacher: knows the same classes.
        options: the paper's numbers.
    """

    def __init__(self, model: Backbone, teacher: Teacher, options: DistillOptions) -> None:
        super().__init__()
        if model.num_classes < 2:
            raise VitrailError(f"training a classifier needs at least two classes, the model has {model.num_classes}")
        known = teacher.model.num_classes if teacher.order is None else len(teacher.order)
        if known != model.num_classes:
            raise VitrailError(f"the teacher tells {known} classes apart, the student {model.num_classes}")
        self.model = model
        self.teacher = teacher
        self.options = options
        self.heads: Heads = class_head_twice(model)
        if isinstance(model, VisionTransformer) and model.config.distilled:
            self.heads = both_heads(model)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """``(1 - λ) · cross-entropy with the labels + λ · the teacher's term``, nats.

        Also logs both terms, and the share of pictures for which the student's answer is the teacher's.
        """
        if batch.labels is None:
            raise VitrailError(f"pictures without labels cannot train a classifier: {', '.join(batch.names[:3])}")
        told = self.teacher.logits(batch.images)
        by_label, by_teacher = (logits.float() for logits in self.heads(self.model.read(batch.images)))
        label_loss = F.cross_entropy(by_label, batch.labels)
        teacher_loss = LOSSES[self.options.kind](by_teacher, told, self.options.temperature)
        share = self.options.share
        return {
            "loss": (1.0 - share) * label_loss + share * teacher_loss,
            "label_loss": label_loss,
            "teacher_loss": teacher_loss,
            "teacher_agreement": (by_teacher.argmax(dim=1) == told.argmax(dim=1)).float().mean(),
        }

    def roles(self) -> dict[str, Role]:
        """The student's own."""
        return {f"model.{name}": role for name, role in self.model.roles().items()}

    def export(self) -> nn.Module:
        """The student; where it learns by low-rank updates, a copy with these folded into its weights."""
        return without_lora(self.model)
