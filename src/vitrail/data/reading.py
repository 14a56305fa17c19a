"""Making one batch: read, transform, stack, mix. Runs in the loader's workers, or in the main process without any."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from vitrail.contracts import Batch, VitrailError
from vitrail.data.cache import PictureCache
from vitrail.data.files import BrokenPicture, printable
from vitrail.data.finish import Finish, Sample, Stacked, collate
from vitrail.data.order import batch_seed, sample_seeds
from vitrail.data.sources.base import Source
from vitrail.data.undecoded import PartTransform

PictureTransform = Callable[[UInt8[Tensor, "c h w"]], Sample | Mapping[str, Sample]] | PartTransform
"""uint8 pixels to the model's input, or to several samples by name: ``"images"`` and extras. Random only through
torch's global generator."""

Collate = Callable[[list[dict[str, Sample]]], Stacked]
"""The samples of a batch, each with ``"images"`` and extras, into tensors with the batch first."""

OnError = Literal["raise", "skip"]
Task = tuple[int, int, NDArray[np.int64]]
"""Epoch, batch number and sample indices."""


class Skipped(NamedTuple):
    """A broken picture that was left out."""

    name: str
    reason: str


@dataclass
class Outcome:
    """What comes back for a task: the fields of a :class:`Batch`, as far as there is one, and what went wrong.

    Attributes:
        images: ``(B, C, H, W)``, or whatever shape the transform gives a sample; None with an error, or when no picture
            is left.
        labels: ``(B,)`` int64 class numbers or ``(B, K)`` float class probabilities; None also when unlabelled.
        indices: ``(B,)`` int64, each picture's place in its source; None like ``images``.
        extras: further tensors by name, with the batch first.
        finish: by name what is left to do to a tensor on the model's device.
        names: of the pictures in the batch.
        skipped: the broken pictures that were left out.
        error: what stops the run, or None.
    """

    images: Tensor | None = None
    labels: Tensor | None = None
    indices: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)
    finish: dict[str, Finish] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    error: Exception | None = None

    def pin_memory(self) -> Outcome:
        """In page-locked memory, for asynchronous copies to a GPU (called by torch's DataLoader)."""
        self.images = None if self.images is None else self.images.pin_memory()
        self.labels = None if self.labels is None else self.labels.pin_memory()
        self.indices = None if self.indices is None else self.indices.pin_memory()
        self.extras = {name: value.pin_memory() for name, value in self.extras.items()}
        return self


@contextmanager
def own_randomness() -> Iterator[torch.Generator]:
    """torch's global CPU generator for the block alone: its state is put back afterwards."""
    # torch.manual_seed would visit every device: 100 µs a call against 1 µs.
    generator = torch.default_generator
    state = generator.get_state()
    try:
        yield generator
    finally:
        generator.set_state(state)


class Hands:
    """What each worker is busy with, in shared memory: readable after the worker's death."""

    def __init__(self, workers: int) -> None:
        # Process id, epoch, batch number, sample index; -1 for none.
        self._table = torch.full((max(workers, 1), 4), -1, dtype=torch.int64).share_memory_()

    def take(self, epoch: int, number: int, index: int) -> None:
        """The calling worker now reads sample ``index`` of a batch; -1: between samples, or between batches."""
        worker = get_worker_info()
        if worker is not None:
            self._table[worker.id] = torch.tensor((os.getpid(), epoch, number, index))

    def pids(self) -> list[int]:
        """The workers' process ids, as far as they have begun."""
        return [pid for pid in self._table[:, 0].tolist() if pid > 0]

    def busy(self, pids: set[int] | None = None) -> list[tuple[int, int, int]]:
        """``(epoch, batch number, sample index or -1)`` of the busy workers, or of those among ``pids``."""
        rows = self._table.tolist()
        return [(e, n, i) for pid, e, n, i in rows if n >= 0 and (pids is None or pid in pids)]


class BatchReader(Dataset[Outcome]):
    """Makes batches from tasks; the same task gives the same bits in any process.

    Args:
        source: the pictures.
        transform: from uint8 pixels to the model's input; a :class:`PartTransform` may get a file that is not decoded.
        mixing: from batch to batch, or None.
        seed: of the run.
        rank: of this process, for mixing.
        on_error: whether a broken picture stops the run or is left out.
        cache: where to take pixels from before asking the source, or None.
        hands: where to say what is being read.
        soft_labels: whether labels are the source's class probabilities instead of its class numbers.
        collate: stacks samples.
    """

    def __init__(
        self,
        source: Source,
        transform: PictureTransform,
        mixing: Callable[[Batch], Batch] | None,
        seed: int,
        rank: int,
        on_error: OnError,
        cache: PictureCache | None,
        hands: Hands,
        soft_labels: bool = False,
        collate: Collate = collate,
    ) -> None:
        self.source = source
        self.transform = transform
        self.mixing = mixing
        self.seed = seed
        self.rank = rank
        self.on_error = on_error
        pictures = source if cache is None else cache
        self.open = pictures.open if isinstance(transform, PartTransform) else pictures.pixels
        self.hands = hands
        self.labels: NDArray[np.int64] | NDArray[np.float32] | None = source.labels if source.classes else None
        if soft_labels:
            self.labels = source.probabilities
        self.collate = collate

    def __getitem__(self, task: Task) -> Outcome:
        epoch, number, _ = task
        try:
            with own_randomness() as generator:
                outcome = self._read(task, generator)
                if self.mixing is not None and outcome.images is not None:
                    generator.manual_seed(batch_seed(self.seed, epoch, number, self.rank))
                    outcome = self._mix(outcome, self.mixing)
        except VitrailError as error:
            return Outcome(error=error)
        # Whatever a user's transform or source raises: with its traceback, which does not cross processes by itself.
        except Exception as error:
            return Outcome(error=RuntimeError(f"Making batch {number} failed: {error}\n{traceback.format_exc()}"))
        self.hands.take(-1, -1, -1)
        return outcome

    def _read(self, task: Task, generator: torch.Generator) -> Outcome:
        epoch, number, indices = task
        samples: list[dict[str, Sample]] = []
        kept: list[int] = []
        skipped: list[Skipped] = []
        for index, seed in zip(indices.tolist(), sample_seeds(self.seed, epoch, indices), strict=True):
            self.hands.take(epoch, number, index)
            generator.manual_seed(seed)
            try:
                samples.append(self._transform(index, self.open(index)))
            except BrokenPicture as error:
                if self.on_error == "raise":
                    raise
                skipped.append(Skipped(error.name, error.reason))
                continue
            kept.append(index)
        self.hands.take(epoch, number, -1)
        if not samples:
            return Outcome(skipped=tuple(skipped))
        stacked, finish = self.collate(samples)
        labels = None if self.labels is None else torch.from_numpy(self.labels[kept])
        names = tuple(self.source.name(index) for index in kept)
        return Outcome(stacked.pop("images"), labels, torch.tensor(kept), stacked, finish, names, tuple(skipped))

    def _transform(self, index: int, picture: Any) -> dict[str, Sample]:
        try:
            sample = self.transform(picture)
        # What is wrong with a file may show only when it is decoded.
        except BrokenPicture:
            raise
        except VitrailError as error:
            raise VitrailError(f"{printable(self.source.name(index))}: {error}") from None
        except Exception as error:
            error.add_note(f"while transforming {printable(self.source.name(index))}")
            raise
        named = dict(sample) if isinstance(sample, Mapping) else {"images": sample}
        return {**named, **self.source.extras(index)}

    def _mix(self, outcome: Outcome, mixing: Callable[[Batch], Batch]) -> Outcome:
        batch = mixing(to_batch(outcome))
        return replace(outcome, images=batch.images, labels=batch.labels, finish=dict(batch.finish))


def to_batch(outcome: Outcome) -> Batch:
    """The batch of an outcome that has pictures."""
    if outcome.images is None or outcome.indices is None:
        raise ValueError("an outcome without pictures has no batch")
    return Batch(outcome.images, outcome.labels, outcome.indices, outcome.names, outcome.extras, finish=outcome.finish)
