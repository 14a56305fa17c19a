"""DINO: Emerging Properties in Self-Supervised Vision Transformers (Caron et al. 2021).

A student sees several crops of a picture, its momentum teacher only the two large ones; the student learns to say of
every crop what the teacher says of another one. Section 3.1 of the paper, and where it is here:

| in the paper | here |
|---|---|
| multi-crop: two global views, several local | :class:`vitrail.data.MultiCropTransform` |
| equation 1, the student's softmax with τ_s | :meth:`DINO.forward` |
| equations 2 and 3, cross-entropy between views | :func:`vitrail.methods.momentum.cross_view_loss` |
| teacher network: θ_t ← λ θ_t + (1 - λ) θ_s | :meth:`DINO.after_step`, :func:`vitrail.methods.momentum.momentum_at` |
| network architecture: the projection head | :class:`vitrail.heads.ProjectionHead` |
| avoiding collapse: sharpening with τ_t | :meth:`DINO._targets`, :func:`vitrail.methods.momentum.temperature_at` |
| equation 4, centring | :meth:`DINO._targets` and :meth:`DINO.after_step` |
| last layer fixed during the first epoch (appendix C) | :meth:`DINO.forward` |

Of the paper's optimiser one thing is not here: its weight decay climbs during training, the engine's stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import Batch, Method, Progress, Role
from vitrail.data.views import LOCAL_VIEWS, SECOND_VIEW
from vitrail.methods.momentum import (
    TeacherOptions,
    batch_entropy,
    cross_view_loss,
    follow,
    frozen_copy,
    mean_entropy,
    momentum_at,
)
from vitrail.methods.ranks import sum_over_ranks
from vitrail.models.backbone import Backbone


@dataclass(frozen=True)
class DINOOptions(TeacherOptions):
    """The numbers of DINO; the defaults are the paper's.

    Attributes:
        center_momentum: m of equation 4.
        centre: whether the teacher's outputs are centred; without it, or without sharpening, DINO collapses.
    """

    center_momentum: float = 0.9
    centre: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_shares("center_momentum")


class DINO(Method):
    """Trains a backbone by agreement between views; the teacher is what is kept.

    Logged besides the loss: ``teacher_entropy``, the mean entropy of what the teacher says of a view; ``kl``, how far
    the student is from it; ``batch_entropy``, the entropy of the teacher's mean over the batch; all in nats. Healthy
    training has a teacher entropy well below the batch's. Both at ``log prototypes`` with no ``kl``: collapse to the
    uniform distribution; both at 0: collapse to one prototype (section 5.3).

    Args:
        model: where the student and the teacher begin; its classifier is taken away.
        options: the numbers.
    """

    center: Tensor
    _seen: Tensor
    _count: Tensor

    def __init__(self, model: Backbone, options: DINOOptions) -> None:
        super().__init__()
        model.reset_classifier(0)
        self.options = options
        self.student = model
        self.student_head = options.make_head(model.num_features)
        self.teacher = frozen_copy(self.student)
        self.teacher_head = frozen_copy(self.student_head)
        self.register_buffer("center", torch.zeros(options.prototypes))
        # Within a step: the sum and the number of the teacher's outputs.
        self.register_buffer("_seen", torch.zeros(options.prototypes), persistent=False)
        self.register_buffer("_count", torch.zeros(()), persistent=False)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Cross-entropy between the teacher's global views and all other views of the student."""
        options = self.options
        whole = torch.cat([batch.images, batch.extras[SECOND_VIEW]])
        targets = self._targets(whole, progress)

        # One pass for each size of view, one for all of them through the head.
        local = batch.extras.get(LOCAL_VIEWS, batch.images.new_empty(len(batch), 0))
        learns = progress.fraction >= options.freeze_backbone
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            views = [self._embed(self.student, whole)]
            if local.shape[1]:
                views.append(self._embed(self.student, local.flatten(0, 1)))
        learn_last = progress.epoch >= options.freeze_last_layer
        scores = self.student_head(torch.cat(views), learn_last).float()
        said = (scores / options.student_temperature).log_softmax(dim=-1)
        said_whole, said_local = said[: len(whole)], said[len(whole) :]
        loss = cross_view_loss(
            targets, said_whole.unflatten(0, (2, len(batch))), said_local.unflatten(0, (len(batch), local.shape[1]))
        )
        entropy = mean_entropy(targets)
        return {
            "loss": loss,
            "teacher_entropy": entropy,
            "kl": loss.detach() - entropy,
            "batch_entropy": batch_entropy(targets),
        }

    @torch.no_grad()
    def _targets(self, whole: Tensor, progress: Progress) -> Float[Tensor, "2 b k"]:
        """The teacher's probabilities for the global views: centred and sharpened."""
        options = self.options
        scores = self.teacher_head(self._embed(self.teacher, whole)).float()
        self._seen += sum_over_ranks(scores.sum(dim=0))
        self._count += sum_over_ranks(self._count.new_tensor(len(scores)))
        temperature = options.temperature(progress)
        if options.centre:
            scores = scores - self.center
        return (scores / temperature).softmax(dim=-1).unflatten(0, (2, -1))

    @staticmethod
    def _embed(model: Backbone, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        return model.pool(model.read(images))

    def after_step(self, progress: Progress) -> None:
        """The teacher follows the student, the centre the mean of the teacher's outputs over the step."""
        momentum = momentum_at(progress, self.options.momentum)
        follow(self.teacher, self.student, momentum)
        follow(self.teacher_head, self.student_head, momentum)
        self.center.lerp_(self._seen / self._count, 1.0 - self.options.center_momentum)
        self._seen.zero_()
        self._count.zero_()

    def train(self, mode: bool = True) -> DINO:
        """As of any module, but the teacher never drops anything."""
        super().train(mode)
        self.teacher.eval()
        self.teacher_head.eval()
        return self

    def roles(self) -> dict[str, Role]:
        """The student's own; its head behind it."""
        return self.options.roles(self.student, student_head=self.student_head)

    def export(self) -> nn.Module:
        """The teacher's backbone, which is better than the student's throughout training (section 5.2)."""
        return self.teacher
