"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def ema_decay_at(updates: int, decay: float) -> float:
    """The decay of the update that follows ``updates`` earlier ones: ``min(decay, (1 + t) / (10 + t))``.

    The warm-up keeps the random first weights from lingering in the average (as documented for TensorFlow's
    ``ExponentialMovingAverage`` with ``num_updates``).
    """
    return min(decay, (1 + updates) / (10 + updates))


class Ema:
    """A running average of the trainable parameters and the stored floating-point buffers of ``module``.

    Frozen parameters and whole-number buffers are left as they are: the former do not learn (or, like a momentum
    teacher, are averages already), the latter are counters.

    Args:
        module: what is averaged; its current weights are where the average starts.
        decay: the final decay, see :func:`ema_decay_at`.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._live = _averaged(module)
        self.average: dict[str, Tensor] = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights as they are now."""
        blend = get_ema_multi_avg_fn(ema_decay_at(self.updates, self.decay))
        blend(tuple(self.average.values()), tuple(value.detach() for value in self._live.values()), self.updates)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module carries the average inside the ``with`` block, and its own weights, bit for bit, after it."""
        own = {name: value.detach().clone() for name, value in self._live.items()}
        self._write(self.average)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._live[name].copy_(value)


def _averaged(module: nn.Module) -> dict[str, Tensor]:
    chosen: dict[str, Tensor] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        frozen = isinstance(value, nn.Parameter) and not value.requires_grad
        if torch.is_floating_point(value) and not frozen:
            chosen[name] = value
    return chosen
