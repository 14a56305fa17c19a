"""Decoded pictures kept in memory, shared by the loader's workers. It changes the speed and nothing else."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, multiprocessing

from vitrail.contracts import VitrailError
from vitrail.data.sources.base import Source
from vitrail.data.undecoded import Undecoded

AUTO_BYTES = 2 << 30
"""``cache="auto"`` caches data sets up to this size decoded (2 GiB), or a quarter of the free memory if less."""

_PROBES = 16
_CGROUP = Path("/sys/fs/cgroup")


class PictureCache:
    """A source's pixels, kept as uint8 from their first reading until the room is used up.

    The room is one anonymous shared mapping: forked workers fill it for each other, the system only provides the
    pages that are written, and it does not count against ``/dev/shm``, which is tiny in many containers. A process
    that was not forked (the ``spawn`` start method) cannot inherit it and reads the source each time.

    Args:
        source: what is cached.
        capacity: room in bytes.
        whole: stop keeping pictures as soon as the first of them show that all would not fit.
    """

    def __init__(self, source: Source, capacity: int, whole: bool = False) -> None:
        self.source = source
        self.capacity = capacity
        self.whole = whole
        # Per picture: 1 + offset of its pixels (0: not there), height, width, channels, in which order they lie as
        # decoders give them. Last: bytes and pictures held.
        self._table = np.frombuffer(_shared((4 * len(source) + 2) * 8), dtype=np.int64)
        self._room = np.frombuffer(_shared(capacity), dtype=np.uint8)
        self._lock = multiprocessing.get_context("fork").Lock()
        self._owner = True

    def __getstate__(self) -> dict[str, Any]:
        """What a spawned process gets: the source alone."""
        return {"source": self.source, "_owner": False}

    @property
    def used(self) -> int:
        """Bytes of pixels held."""
        return int(self._table[-2]) if self._owner else 0

    def open(self, index: int) -> Undecoded:
        """The picture's pixels where they are in memory or shall be; else what the source has. Not to be written to."""
        held = self._owner and bool(self._table[4 * index])
        return self.pixels(index) if held or not self._full() else self.source.open(index)

    def pixels(self, index: int) -> UInt8[Tensor, "c h w"]:
        """The picture's pixels, from memory where they are there. Not to be written to."""
        if not self._owner:
            return self.source.pixels(index)
        place, height, width, channels = self._table[4 * index : 4 * index + 4].tolist()
        if place:
            held = self._room[place - 1 : place - 1 + channels * height * width]
            return torch.from_numpy(held).view(height, width, channels).permute(2, 0, 1)
        pixels = self.source.pixels(index)
        self._keep(index, pixels.permute(1, 2, 0))
        return pixels

    def _full(self) -> bool:
        """Whether another picture like those held would not fit; with ``whole``, whether all of them would not."""
        if not self._owner:
            return True
        offset, held = self._table[-2:].tolist()
        wanted = len(self.source) if self.whole else held + 1
        return held >= _PROBES and offset * wanted > self.capacity * held

    def _keep(self, index: int, pixels: Tensor) -> None:
        size = pixels.numel()
        with self._lock:
            offset, held = self._table[-2:].tolist()
            if self._full() or offset + size > self.capacity:
                return
            self._table[-2:] = offset + size, held + 1
        self._room[offset : offset + size] = pixels.reshape(-1).numpy()
        # The place comes last, after the lock's memory barrier: whoever sees it finds the pixels complete.
        with self._lock:
            self._table[4 * index + 1 : 4 * index + 4] = pixels.shape
        with self._lock:
            self._table[4 * index] = offset + 1


def _shared(size: int) -> mmap.mmap:
    return mmap.mmap(-1, max(size, 1))


def make_cache(source: Source, cache: bool | Literal["auto"]) -> PictureCache | None:
    """The cache that was asked for, or None.

    ``True`` may use half of the free memory. ``"auto"`` may use :data:`AUTO_BYTES` or a quarter of the free memory,
    whichever is less, and gives up once the first pictures read show that the whole set, decoded, would not fit.
    Neither caches what is in memory anyway, or what is no picture that stays the same; nor anything where the system
    does not grant the room (a limit on the address space).

    Raises:
        VitrailError: another value.
    """
    if cache not in (True, False, "auto"):
        raise VitrailError(f"cache must be True, False or 'auto', not {cache!r}")
    # Windows and macOS spawn their workers, which cannot inherit the memory.
    if not cache or source.in_memory or not source.cacheable or "fork" not in multiprocessing.get_all_start_methods():
        return None
    capacity = free_memory() // 2
    if cache == "auto":
        capacity = min(AUTO_BYTES, free_memory() // 4)
    try:
        return PictureCache(source, capacity, whole=cache == "auto") if capacity else None
    except OSError:
        return None


def free_memory() -> int:
    """Bytes of memory that this process may still use: the machine's, or its control group's when that is less."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        limit = (_CGROUP / "memory.max").read_text("ascii").strip()
        if limit != "max":
            free = min(free, int(limit) - int((_CGROUP / "memory.current").read_text("ascii")))
    except OSError:
        pass
    return max(free, 0)
