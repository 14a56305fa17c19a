"""The order of samples and the seeds of their randomness, as pure functions: there is no state to save.

Order and seeds come from a hash of whole numbers (SplitMix64, Steele et al. 2014), not from a library's generator,
so they stay the same across versions of torch and NumPy and across machines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitrail.contracts import VitrailError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1

# Kinds of randomness: one number must never serve two purposes.
_ORDER, _SAMPLE, _BATCH, _SPLIT = 1, 2, 3, 4


def mix64(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser on each word: every input bit moves every output bit."""
    with np.errstate(over="ignore"):
        words = words + _GOLDEN
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _key(*words: int) -> NDArray[np.uint64]:
    key = np.zeros(1, dtype=np.uint64)
    for word in words:
        key = mix64(key ^ np.array([word & _MASK], dtype=np.uint64))
    return key


def _hashes(key: NDArray[np.uint64], numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    return mix64(key ^ mix64(numbers.astype(np.uint64)))


def permutation(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of ``length`` samples in ``epoch``."""
    return np.argsort(_hashes(_key(_ORDER, seed, epoch), np.arange(length)), kind="stable")


def split_order(numbers: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """``numbers`` shuffled for a split into training and validation."""
    return numbers[np.argsort(_hashes(_key(_SPLIT, seed), numbers), kind="stable")]


def sample_seeds(seed: int, epoch: int, indices: NDArray[np.int64]) -> list[int]:
    """One 63-bit seed per sample for its augmentation, from ``(seed, epoch, index)``."""
    return (_hashes(_key(_SAMPLE, seed, epoch), indices) >> np.uint64(1)).tolist()


def batch_seed(seed: int, epoch: int, number: int, rank: int) -> int:
    """The 63-bit seed of what happens to a batch as a whole (mixing)."""
    return int(_key(_BATCH, seed, epoch, number, rank)[0] >> np.uint64(1))


@dataclass(frozen=True)
class Order:
    """Which samples are in which batch of which epoch, for one rank.

    The epoch's order is cut into global batches of ``batch_size * world_size``, and each rank takes its contiguous
    part of each; ``accumulate`` of them in a row make a step. Hence runs with as many samples a step see the same
    samples in every step and take as many steps, whatever the world size and ``accumulate``.
    A last, smaller global batch (``drop_last=False``) is dealt out as evenly as it goes; when it has fewer samples
    than there are ranks, the last ranks have one batch fewer.

    Attributes:
        length: samples in the source.
        batch_size: samples per batch on each rank.
        seed: of the run.
        shuffle: a new order each epoch, or the source's own.
        drop_last: leave out the samples that do not fill a step.
        rank: this process's number, from 0.
        world_size: number of processes.
        accumulate: batches of a rank that make one step.
    """

    length: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = True
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.length < 1:
            raise VitrailError("There are no samples to load: the data set is empty")
        if self.batch_size < 1:
            raise VitrailError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise VitrailError(f"rank {self.rank} of {self.world_size} processes does not exist")
        if self.accumulate < 1:
            raise VitrailError(f"accumulate must be at least 1, not {self.accumulate}")
        if self.drop_last and self.length < self.step:
            together = "" if self.step == self.batch_size else " over all of them"
            raise VitrailError(
                f"A batch of {self._factors()} is larger than the data set of {self.length} pictures; "
                f"lower batch_size to at most {self.length}{together}"
            )

    @property
    def global_batch(self) -> int:
        """Samples per batch over all ranks."""
        return self.batch_size * self.world_size

    @property
    def step(self) -> int:
        """Samples per step over all ranks."""
        return self.global_batch * self.accumulate

    def __len__(self) -> int:
        """Batches an epoch on this rank."""
        if self.drop_last:
            return self.length // self.step * self.accumulate
        whole, rest = divmod(self.length, self.global_batch)
        return whole + (rest > self.rank)

    def _factors(self) -> str:
        factors = f"{self.batch_size}"
        if self.world_size > 1:
            factors += f" x {self.world_size} processes"
        if self.accumulate > 1:
            factors += f" x accumulate {self.accumulate}"
        return factors if self.step == self.batch_size else f"{factors} = {self.step}"

    def samples(self, epoch: int) -> NDArray[np.int64]:
        """All samples of ``epoch`` in order, for all ranks."""
        return permutation(self.length, self.seed, epoch) if self.shuffle else np.arange(self.length)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """``(batch number, sample indices)`` of this rank from batch ``start`` on.

        Raises:
            VitrailError: ``start`` lies outside the epoch.
        """
        if not 0 <= start <= len(self):
            raise VitrailError(f"Batch {start} does not exist: an epoch has {len(self)} batches on this rank")
        samples = self.samples(epoch)
        for number in range(start, len(self)):
            yield number, self._part(samples[number * self.global_batch : (number + 1) * self.global_batch])

    def _part(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        share, more = divmod(len(batch), self.world_size)
        begin = self.rank * share + min(self.rank, more)
        return batch[begin : begin + share + (self.rank < more)]
