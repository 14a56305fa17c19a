"""Batches by epoch number: stateless, reproducible to the bit, and honest about files and workers that fail."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Sampler

from vitrail.contracts import Batch, VitrailError
from vitrail.data.cache import make_cache
from vitrail.data.files import printable
from vitrail.data.finish import collate
from vitrail.data.order import Order
from vitrail.data.reading import (
    BatchReader,
    Collate,
    Hands,
    OnError,
    Outcome,
    PictureTransform,
    Skipped,
    Task,
    to_batch,
)
from vitrail.data.sources.base import Source

# Forked workers start in milliseconds and share the cache. They never touch CUDA and run on one thread, which is
# what makes forking from a process with threads safe in practice; elsewhere the system's own method is used.
_START_METHOD = "fork" if sys.platform == "linux" else "spawn"


class NothingLeft(VitrailError):
    """Every picture of an epoch was broken.

    Attributes:
        skipped: the pictures, with what is wrong with each.
    """

    def __init__(self, skipped: Sequence[Skipped]) -> None:
        name, reason = skipped[0]
        super().__init__(
            f"every picture was broken: nothing is left to work on (the first: {printable(name)}: {reason})"
        )
        self.skipped = tuple(skipped)


class _Plan(Sampler[Task]):
    """The tasks of the epoch that is to be run next."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.epoch = 0
        self.start = 0

    def __iter__(self) -> Iterator[Task]:
        # Bound now: the tasks are drawn while the plan may already be set for another epoch.
        epoch, start = self.epoch, self.start
        return ((epoch, number, indices) for number, indices in self.order.batches(epoch, start))


class Loader:
    """An :class:`vitrail.contracts.EpochLoader` over a source.

    Pictures come as 8-bit pixels; ``batch.to(device)`` makes the model's input of them there.

    What a batch holds depends on the source, ``seed``, the epoch, the batch's number and ``rank`` alone: not on
    ``workers``, ``cache``, or what was loaded before. The main process's random state is never touched.

    With ``workers > 0`` one pool of processes serves all epochs; asking for another epoch ends the one before. The
    pool goes when the loader does, or with :meth:`close`; workers also leave by themselves, within seconds, when this
    process is killed. A worker's death and a wait beyond ``timeout_s`` are errors that name the files in hand; without
    workers a read cannot be interrupted.

    Args:
        source: the pictures.
        transform: from uint8 pixels ``(C, H, W)`` to a sample (:data:`vitrail.data.Sample`), or to a mapping with
            ``"images"`` and extras; random only through torch's global generator, which is seeded per sample.
        batch_size: pictures per batch on each rank.
        seed: of the order and of all augmentation.
        shuffle: another order each epoch; False: the source's order.
        drop_last: leave out what does not fill the last step. False, as where nothing is trained: every picture
            once in batches of any size, and one of nothing but broken pictures is passed over.
        workers: number of worker processes; 0 loads in this process.
        mixing: what is done to a batch as a whole, e.g. :class:`vitrail.data.Mixing`.
        rank: this process's number among ``world_size``.
        world_size: number of processes that share each global batch.
        accumulate: batches that make one step.
        on_error: ``"raise"`` at a broken picture, or ``"skip"``: the batch is then smaller, nothing replaces it. With
            ``drop_last`` steps wait for the batches of every process: one that is left without pictures is an error.
        cache: keep decoded pictures in memory: True, False, or ``"auto"`` when they all fit (see ``make_cache``).
        timeout_s: longest wait for a batch in seconds.
        soft_labels: batches carry the source's class probabilities ``(B, K)`` instead of its class numbers.
        collate: stacks the samples of a batch; :func:`vitrail.data.pad_collate` for pictures of different sizes.

    Attributes:
        skipped: the broken pictures left out so far, each once.

    Raises:
        VitrailError: a batch larger than the data set, or another impossible number; soft labels that are not there.
    """

    def __init__(
        self,
        source: Source,
        transform: PictureTransform,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        workers: int = 0,
        mixing: Callable[[Batch], Batch] | None = None,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        on_error: OnError = "raise",
        cache: bool | Literal["auto"] = "auto",
        timeout_s: float = 120.0,
        soft_labels: bool = False,
        collate: Collate = collate,
    ) -> None:
        if workers < 0:
            raise VitrailError(f"workers must be 0 or more, not {workers}")
        if on_error not in ("raise", "skip"):
            raise VitrailError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
        if not timeout_s > 0:
            raise VitrailError(f"timeout_s must be a positive number of seconds, not {timeout_s}")
        if soft_labels and source.probabilities is None:
            raise VitrailError(
                "soft labels were asked for, but this data states one class per picture and no class probabilities"
            )
        self.source = source
        self.order = Order(len(source), batch_size, seed, shuffle, drop_last, rank, world_size, accumulate)
        self.workers = workers
        self.timeout_s = timeout_s
        self.skipped: list[Skipped] = []
        self._seen: set[str] = set()
        self._plan = _Plan(self.order)
        self._hands = Hands(workers)
        cached = make_cache(source, cache)
        self._reader = BatchReader(
            source, transform, mixing, seed, rank, on_error, cached, self._hands, soft_labels, collate
        )
        self._pool: DataLoader[Outcome] | None = None
        self._stream: Iterator[Outcome] = iter(())
        self._turn = 0

    def __len__(self) -> int:
        """Batches an epoch on this rank."""
        return len(self.order)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` from number ``start`` on.

        Raises:
            VitrailError: ``start`` outside the epoch; while iterating: a broken picture (``on_error="raise"``), with
                ``drop_last`` a batch of nothing but broken ones, a dead worker, a wait beyond ``timeout_s``.
            NothingLeft: without ``drop_last``, at the end of an epoch that this process alone went through: it had none
                but broken pictures.
        """
        if epoch < 0 or not 0 <= start <= len(self):
            raise VitrailError(f"Batch {start} of epoch {epoch} does not exist; an epoch has {len(self)} batches")
        outcomes = self._run(epoch, start) if self.workers == 0 else self._run_pool(epoch, start)
        return self._batches(outcomes, start)

    def close(self) -> None:
        """End the worker processes; a later :meth:`epoch` starts new ones."""
        self._turn += 1
        self._stream = iter(())
        self._pool = None
        self._hands = Hands(self.workers)
        self._reader.hands = self._hands

    def _batches(self, outcomes: Iterator[Outcome], start: int) -> Iterator[Batch]:
        """Those of the outcomes that have pictures, from batch ``start`` on."""
        skipped: list[Skipped] = []
        whole = not start and self.order.world_size == 1
        empty = True
        for number, outcome in enumerate(outcomes, start):
            if outcome.error is not None:
                raise outcome.error
            self._note(outcome)
            if outcome.images is not None:
                empty = False
                yield to_batch(outcome)
            elif self.order.drop_last:
                listed = "; ".join(f"{printable(name)}: {reason}" for name, reason in outcome.skipped)
                raise VitrailError(f"Every picture of batch {number} is broken: {listed}")
            elif empty and whole:
                skipped.extend(outcome.skipped)
        if empty and skipped:
            raise NothingLeft(skipped)

    def _run(self, epoch: int, start: int) -> Iterator[Outcome]:
        pin = torch.cuda.is_available()
        for number, indices in self.order.batches(epoch, start):
            outcome = self._reader[(epoch, number, indices)]
            yield outcome.pin_memory() if pin else outcome

    def _run_pool(self, epoch: int, start: int) -> Iterator[Outcome]:
        self._turn += 1
        turn = self._turn
        self._plan.epoch, self._plan.start = epoch, start
        self._check_alive()
        if self._pool is None:
            self._pool = self._make_pool()
        self._stream = iter(self._pool)
        _guard_child_signal()
        for _ in range(start, len(self)):
            if turn != self._turn:
                raise VitrailError(f"Epoch {epoch} of this loader was ended by a later call of epoch() or close()")
            yield self._receive()

    def _make_pool(self) -> DataLoader[Outcome]:
        return DataLoader(
            self._reader,
            batch_size=None,
            sampler=self._plan,
            num_workers=self.workers,
            collate_fn=_unchanged,
            pin_memory=torch.cuda.is_available(),
            timeout=self.timeout_s,
            worker_init_fn=partial(_begin_worker, os.getpid()),
            multiprocessing_context=_START_METHOD,
            # Its own: otherwise each epoch would draw from the main process's random state.
            generator=torch.Generator(),
            persistent_workers=True,
        )

    def _receive(self) -> Outcome:
        self._check_alive()
        try:
            with _Waiting():
                return next(self._stream)
        # A worker that dies while it hands over a batch breaks the connection.
        except (RuntimeError, ConnectionError, EOFError) as error:
            failure = str(error)
        # Outside the handler: the error's traceback would keep the pool, and with it the processes, alive.
        raise self._failure("timed out" in failure)

    def _check_alive(self) -> None:
        if set(self._hands.pids()) - _children():
            raise self._failure(late=False)

    def _failure(self, late: bool) -> VitrailError:
        pids = set(self._hands.pids())
        alive = pids & _children()
        in_hand = self._files(None if late else pids - alive)
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        self.close()
        if late:
            return VitrailError(f"No batch came for {self.timeout_s:g} s. Being read: {in_hand}. Is the disk slow?")
        return VitrailError(
            f"A loader worker died (out of memory, or killed). It had in hand: {in_hand}. "
            "Try fewer workers, or look at these files"
        )

    def _files(self, pids: set[int] | None) -> str:
        found = []
        for epoch, number, index in self._hands.busy(pids):
            if index >= 0:
                found.append(f"{printable(self.source.name(index))} (batch {number} of epoch {epoch})")
                continue
            _, indices = next(self.order.batches(epoch, number))
            names = [printable(self.source.name(index)) for index in indices.tolist()]
            found.append(f"batch {number} of epoch {epoch}: {', '.join(names)}")
        return "; ".join(found) or "nothing (between two batches)"

    def _note(self, outcome: Outcome) -> None:
        for one in outcome.skipped:
            if one.name not in self._seen:
                self._seen.add(one.name)
                self.skipped.append(one)


def _children() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


def _unchanged(outcome: Any) -> Any:
    return outcome


def _begin_worker(parent: int, worker: int) -> None:
    # Torch's worker ends when its parent's number changes from what it was at its start. If the main process is killed
    # before that, the worker never sees a change, and would wait for work for good.
    if os.getppid() != parent:
        os._exit(1)
    # Ctrl-C reaches the whole process group; whether to stop is for the main process to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


class _Waiting:
    """Marks that the main thread waits for a batch."""

    active = False

    def __enter__(self) -> None:
        _Waiting.active = True

    def __exit__(self, *error: object) -> None:
        _Waiting.active = False


class _ChildSignal:
    """Calls torch's SIGCHLD handler, but lets it raise only while a batch is waited for.

    By itself it raises wherever the main thread happens to be when a worker dies: in the midst of writing a
    checkpoint, say. Here the next request for a batch tells of the death instead.
    """

    def __init__(self, handler: Callable[[int, FrameType | None], object]) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.handler(number, frame)
        except RuntimeError:
            if _Waiting.active:
                raise


def _guard_child_signal() -> None:
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and not isinstance(handler, _ChildSignal):
        signal.signal(signal.SIGCHLD, _ChildSignal(handler))
