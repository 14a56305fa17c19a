"""One optimiser step: gradients of a group of batches, checked before they change anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from vitrail.contracts import Batch, Method, Progress, VitrailError

from .config import EngineConfig
from .distributed import World
from .ema import Ema
from .optimiser import trainable
from .precision import Precision
from .randomness import AFTER_STEP, derive_seed, seed_everything

_RESERVED = frozenset({"epoch", "step", "lr", "grad_norm", "images_per_s"})


class _Objective(nn.Module):
    """The method as what is differentiated: only "loss" keeps its graph, the other terms are for the log.

    Without this a wrapper for several processes would wait for gradients through terms nobody minimises.
    """

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        losses = self.method(batch, progress)
        return {name: value if name == "loss" else value.detach() for name, value in losses.items()}


@dataclass(frozen=True)
class Gradients:
    """Gradients that wait in ``.grad``, and what is known of them.

    Attributes:
        group: the batches they come from.
        seeds: what the model's randomness was seeded with, batch by batch.
        terms: each batch's loss terms.
        mean_terms: their means over the pictures of the group.
        norm: global gradient norm before clipping.
        images: pictures in the group, over all ranks.
    """

    group: Sequence[Batch]
    seeds: tuple[int, ...]
    terms: tuple[dict[str, Tensor], ...]
    mean_terms: dict[str, Tensor]
    norm: Tensor
    images: int

    def read(self) -> dict[str, float]:
        """The mean terms and ``grad_norm`` as numbers: one transfer, which waits for the device."""
        names = [*self.mean_terms, "grad_norm"]
        stacked = torch.stack([value.float() for value in (*self.mean_terms.values(), self.norm)])
        return dict(zip(names, stacked.tolist(), strict=True))


class Stepper:
    """Takes optimiser steps.

    Each picture of a step counts the same: the loss of a batch is weighted by its share of the step's pictures, over
    all batches of the group and all ranks. (A loss that normalises by something else, masked patches or boxes, is
    still averaged by pictures.)

    Args:
        method: what is trained; already on ``device``.
        objective: the method as it is called, see :func:`wrap`.
        optimiser: over the method's trainable parameters.
        ema: the moving average to keep up, or None.
        config: clipping, seed, compilation.
        world: the processes that train together.
        device: where the batches go.
        precision: the number format of the forward pass.
    """

    def __init__(
        self,
        method: Method,
        objective: nn.Module,
        optimiser: Optimizer,
        ema: Ema | None,
        config: EngineConfig,
        world: World,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self._method = method
        self._objective = objective
        self._parameters = trainable(method)
        self._optimiser = optimiser
        self._ema = ema
        self._config = config
        self._world = world
        self._device = device
        self._precision = precision
        self._foreach = False if device.type == "cpu" else None
        stored = method.state_dict().keys()
        self._buffers = [name for name, _ in method.named_buffers() if name in stored]
        self._before: list[Tensor] = []

    def gradients(self, group: Sequence[Batch], progress: Progress) -> Gradients:
        """Run the group forward and backward; nothing waits for the device."""
        self._before = [self._method.get_buffer(name).clone() for name in self._buffers]
        images = round(self._world.sum([sum(len(batch) for batch in group)])[0])
        self._optimiser.zero_grad(set_to_none=True)
        seeds: list[int] = []
        terms: list[dict[str, Tensor]] = []
        means: dict[str, Tensor] = {}
        for micro, batch in enumerate(group):
            seed = derive_seed(self._config.seed, progress.step, micro, self._world.rank)
            seed_everything(seed, self._device)
            last = micro == len(group) - 1
            with self._no_sync(last), self._world.contact():
                with self._precision.autocast(self._device):
                    losses = self._objective(batch.to(self._device), progress)
                self._check(losses)
                share = len(batch) * self._world.size / images
                (losses["loss"] * share).backward()
            seeds.append(seed)
            terms.append({name: value.detach() for name, value in losses.items()})
            for name, value in terms[-1].items():
                means[name] = means.get(name, 0.0) + value.float() * share
        grads = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        norm = get_total_norm(grads, foreach=self._foreach)
        return Gradients(tuple(group), tuple(seeds), tuple(terms), means, norm, images)

    def apply(self, gradients: Gradients, progress: Progress) -> None:
        """Clip, step, let the method and the moving average follow."""
        if self._config.clip_norm is not None:
            clip_grads_with_norm_(
                self._parameters.values(), self._config.clip_norm, gradients.norm, foreach=self._foreach
            )
        self._optimiser.step()
        # The same stream on every rank: what after_step changes must stay equal.
        seed_everything(derive_seed(self._config.seed, progress.step, AFTER_STEP, 0), self._device)
        with torch.no_grad():
            self._method.after_step(progress)
        if self._ema is not None:
            self._ema.update()

    @torch.no_grad()
    def take_back(self) -> None:
        """Undo what the forward passes of a refused step did to buffers (running statistics, queues)."""
        for name, before in zip(self._buffers, self._before, strict=True):
            self._method.get_buffer(name).copy_(before)

    def non_finite_weights(self) -> list[str]:
        """Names of the parameters, frozen ones too, that hold NaN or Inf."""
        return [name for name, value in self._method.named_parameters() if not bool(torch.isfinite(value).all())]

    def non_finite_gradients(self) -> list[str]:
        """Names of the parameters whose gradient holds NaN or Inf."""
        return [
            name
            for name, parameter in self._parameters.items()
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
        ]

    def _no_sync(self, last: bool) -> AbstractContextManager[object]:
        if isinstance(self._objective, DistributedDataParallel) and not last:
            return self._objective.no_sync()
        return nullcontext()

    def _check(self, losses: dict[str, Tensor]) -> None:
        owner = type(self._method).__name__
        if "loss" not in losses:
            raise VitrailError(
                f"{owner} returned the losses {sorted(losses)}: the one to minimise must be called 'loss'"
            )
        for name, value in losses.items():
            if value.dim():
                raise VitrailError(f"{owner} returned {name!r} of shape {tuple(value.shape)}: losses are scalars")
        if taken := _RESERVED & set(losses):
            raise VitrailError(
                f"{owner} calls a loss {', '.join(sorted(taken))}: a column of metrics.csv has that name"
            )
        if not losses["loss"].requires_grad:
            raise VitrailError(f"{owner}'s loss does not depend on any trainable parameter")


def wrap(method: Method, config: EngineConfig, world: World) -> nn.Module:
    """The method ready to be called: compiled when asked for, averaged over ranks when there are several."""
    inner: nn.Module = method
    if config.compile:
        inner = torch.compile(method)  # type: ignore[assignment]  # an OptimizedModule
    objective: nn.Module = _Objective(inner)
    if world.size == 1:
        return objective
    # A parameter may be idle in some steps (a masked token, a branch dropped by stochastic depth).
    with world.contact():
        return DistributedDataParallel(objective, find_unused_parameters=True)


def is_finite(numbers: dict[str, float]) -> bool:
    """Whether the loss and the gradient norm are numbers one may step on."""
    return math.isfinite(numbers["loss"]) and math.isfinite(numbers["grad_norm"])
