"""The little that the engine and everything above and below it agree on.

A method (a paper's objective) turns a :class:`Batch` and the :class:`Progress` of the run into named losses; the
engine minimises the one called ``"loss"``. Nothing here knows a model, a data set or a paper.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn


class VitrailError(Exception):
    """An error of the user's input: names the file or value, says what is wrong and what to do."""


@dataclass(frozen=True)
class Batch:
    """Pictures and what is known of them.

    Attributes:
        images: ``(B, C, H, W)``: float, normalised, or 8-bit pixels that :meth:`to` makes that of.
        labels: ``(B,)`` int64 class numbers, ``(B, K)`` float class probabilities, or None when unlabelled.
        indices: ``(B,)`` int64, each picture's place in its source.
        names: the pictures' names (paths, usually), for messages.
        extras: further tensors by name, with the batch first (multi-crop views, masks …).
        finish: by name (``"images"`` or an extra's) what is left to do to a tensor on the model's device.
    """

    images: Tensor
    labels: Tensor | None
    indices: Tensor
    names: tuple[str, ...]
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    finish: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device) -> Batch:
        """The batch as a model takes it: every tensor on ``device``, finished.

        Copies are asynchronous where the memory is pinned, and nothing waits for the device.
        """

        def move(name: str, value: Tensor) -> Tensor:
            value = value.to(device, non_blocking=True)
            return self.finish[name](value) if name in self.finish else value

        return Batch(
            images=move("images", self.images),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=True),
            indices=self.indices,
            names=self.names,
            extras={name: move(name, value) for name, value in self.extras.items()},
        )


@dataclass(frozen=True)
class Progress:
    """Where the run stands, in optimiser steps and epochs; both counted from 0."""

    step: int
    total_steps: int
    epoch: int
    total_epochs: int

    @property
    def fraction(self) -> float:
        """Share of the run that is done, 0 … 1."""
        return self.step / max(1, self.total_steps)


@dataclass(frozen=True)
class Role:
    """What the optimiser needs to know of one parameter.

    Attributes:
        depth: distance from the input: 0 for the embedding, ``i + 1`` for block ``i``, ``depth + 1`` for norm and head.
            Layer-wise learning-rate decay multiplies the rate by ``decay ** (deepest - depth)``.
        decay: whether weight decay applies (matrices only: no norms, biases, positions or tokens).
    """

    depth: int
    decay: bool


class Method(nn.Module, ABC):
    """A paper's objective: owns the model, computes the losses, says what is kept at the end."""

    @abstractmethod
    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Named scalar losses; ``"loss"`` is minimised, the others are only logged."""

    @abstractmethod
    def roles(self) -> dict[str, Role]:
        """The role of every trainable parameter, by its name in ``named_parameters()``."""

    @abstractmethod
    def export(self) -> nn.Module:
        """What is kept when training ends (a decoder, a teacher or a projection head is left behind)."""

    def after_step(self, progress: Progress) -> None:
        """Called after every optimiser step: momentum teachers, centres."""


class EpochLoader(Protocol):
    """Batches by epoch number. Stateless: the same ``(epoch, start)`` gives the same batches, always."""

    def __len__(self) -> int:
        """Batches an epoch on this rank."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` from batch number ``start`` on."""
        ...
