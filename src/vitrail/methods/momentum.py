"""What methods with a momentum teacher share: the teacher itself, its schedules, and the loss between views.

Sources: DINO (Caron et al. 2021), which has it from BYOL (Grill et al. 2020) and Mean Teacher (Tarvainen and Valpola
2017).
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vitrail.contracts import Progress, Role, VitrailError
from vitrail.data.views import MultiCrop
from vitrail.heads.projection import ProjectionHead
from vitrail.methods.ranks import mean_over_ranks
from vitrail.models.backbone import Backbone

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class TeacherOptions(MultiCrop):
    """The numbers of a student beside its momentum teacher, those of their views included; the defaults are DINO's.

    Attributes:
        prototypes: K, the dimensions of a head's output.
        hidden, bottleneck, head_layers: of every projection head.
        student_temperature: τ_s.
        teacher_temperature: τ_t once warm.
        teacher_temperature_start: τ_t at the first step.
        teacher_temperature_warmup: share of the run over which τ_t climbs (30 of 300 epochs).
        momentum: λ of the teacher at the first step; 1 at the last.
        freeze_last_layer: epochs during which the prototypes stay as they are.
        freeze_backbone: share of the run during which the heads alone learn: for starts from pretrained weights, which
            the first gradients of a fresh head would spoil.
        head_gap: layers of layer-wise learning-rate decay between the backbone and the heads.
        heads: folder of an earlier run of this method to take the heads from; None for fresh ones.
    """

    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    head_layers: int = 3
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    teacher_temperature_start: float = 0.04
    teacher_temperature_warmup: float = 0.1
    momentum: float = 0.996
    freeze_last_layer: int = 1
    freeze_backbone: float = 0.0
    head_gap: int = 0
    heads: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("student_temperature", "teacher_temperature", "teacher_temperature_start"):
            if not asdict(self)[name] > 0.0:
                raise VitrailError(f"{name} must be above 0, not {asdict(self)[name]}")
        self.require_shares("momentum", "teacher_temperature_warmup", "freeze_backbone")

    def require_shares(self, *names: str) -> None:
        """Refuse numbers outside of 0 … 1.

        Raises:
            VitrailError: naming the first.
        """
        for name in names:
            if not 0.0 <= asdict(self)[name] <= 1.0:
                raise VitrailError(f"{name} must lie in 0 … 1, not {asdict(self)[name]}")

    def make_head(self, width: int) -> ProjectionHead:
        """A fresh projection head on features of a width."""
        return ProjectionHead(width, self.prototypes, self.hidden, self.bottleneck, self.head_layers)

    def temperature(self, progress: Progress) -> float:
        """The teacher's, at this place of the run."""
        warmup = self.teacher_temperature_warmup
        return temperature_at(progress, self.teacher_temperature_start, self.teacher_temperature, warmup)

    def roles(self, student: Backbone, **heads: nn.Module) -> dict[str, Role]:
        """The roles of ``student.…``, and of the named heads behind it."""
        roles = {f"student.{name}": role for name, role in student.roles().items()}
        deepest = max(role.depth for role in roles.values()) + self.head_gap
        for prefix, head in heads.items():
            for name, parameter in head.named_parameters(prefix=prefix):
                roles[name] = Role(deepest, decay=parameter.ndim > 1)
        return roles


def frozen_copy(student: ModuleT) -> ModuleT:
    """A teacher as it begins: the student's weights, without gradients."""
    return copy.deepcopy(student).requires_grad_(False).eval()


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """``teacher ← momentum · teacher + (1 - momentum) · student``; buffers are copied."""
    move = get_ema_multi_avg_fn(momentum)
    move(tuple(teacher.parameters()), tuple(student.parameters()), 0)
    for mine, its in zip(teacher.buffers(), student.buffers(), strict=True):
        mine.copy_(its)


def momentum_at(progress: Progress, start: float) -> float:
    """The teacher's momentum: from ``start`` to 1 along half a cosine over the whole run."""
    return 1.0 - (1.0 - start) * 0.5 * (1.0 + math.cos(math.pi * progress.fraction))


def temperature_at(progress: Progress, first: float, last: float, warmup: float) -> float:
    """The teacher's temperature: on a line from ``first`` to ``last`` over the share ``warmup`` of the run."""
    done = min(1.0, progress.fraction / warmup) if warmup else 1.0
    return first + (last - first) * done


def cross_view_loss(
    targets: Float[Tensor, "g b k"], whole: Float[Tensor, "g b k"], local: Float[Tensor, "b v k"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy over all pairs of a teacher's view and another view of the student, nats.

    That is equation 3 of DINO, with the sum over pairs taken inside: two products instead of one for every pair.

    Args:
        targets: the teacher's probabilities for the ``g`` global views.
        whole: the student's log-probabilities for the same views.
        local: the student's log-probabilities for ``v`` local views, which may be none.
    """
    views, batch = whole.shape[0], whole.shape[1]
    everything = whole.sum(dim=0) + local.sum(dim=1)
    total = (targets.sum(dim=0) * everything).sum() - (targets * whole).sum()
    pairs = views * (views + local.shape[1]) - views
    return -total / (pairs * batch)


def mean_entropy(probabilities: Float[Tensor, "*b k"]) -> Float[Tensor, ""]:
    """Mean entropy of distributions, nats: 0 when each is certain, ``log k`` when none prefers anything."""
    return torch.special.entr(probabilities).sum(dim=-1).mean()


def batch_entropy(probabilities: Float[Tensor, "*b k"]) -> Float[Tensor, ""]:
    """Entropy of the mean of all distributions over all processes, nats: 0 when all say the same one thing."""
    mean = probabilities.flatten(0, -2).mean(dim=0)
    return torch.special.entr(mean_over_ranks(mean)).sum()
