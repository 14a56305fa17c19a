"""What methods with a momentum teacher share: the teacher itself, its schedules, and the loss between views.

Sources: DINO (Caron et al. 2021), which has it from BYOL (Grill et al. 2020) and Mean Teacher (Tarvainen and Valpola
2017).
"""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vitrail.contracts import Progress
from vitrail.methods.ranks import mean_over_ranks

ModuleT = TypeVar("ModuleT", bound=nn.Module)


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
