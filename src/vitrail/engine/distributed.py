"""Several processes as one: torchrun's environment, agreement between ranks, one writer.

Numbers and small objects are agreed upon over gloo on the CPU, so that no accelerator waits for them; gradients
travel over NCCL on CUDA and gloo elsewhere, through ``DistributedDataParallel``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from vitrail.contracts import VitrailError

T = TypeVar("T")
DEFAULT_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class World:
    """This process's place among those that train together; alone by default.

    Attributes:
        rank: number of this process, 0 … ``size - 1``; rank 0 writes all files.
        size: how many processes there are.
        local_rank: number of this process on its machine; picks the GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over the ranks."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """Element-wise maximum over the ranks."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def gather(self, value: T) -> list[T]:
        """The ranks' values, in order of rank, on every rank."""
        if self.size == 1:
            return [value]
        gathered: list[T] = [value] * self.size
        with self.contact():
            dist.all_gather_object(gathered, value)
        return gathered

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Mean over the ranks of each named number (over those ranks that have it)."""
        collected: dict[str, list[float]] = {}
        for part in self.gather(dict(values)):
            for name, value in part.items():
                collected.setdefault(name, []).append(value)
        return {name: sum(parts) / len(parts) for name, parts in collected.items()}

    def on_main(self, work: Callable[[], T]) -> T:
        """Do ``work`` on rank 0 alone; every rank waits for it, gets its result or raises its VitrailError."""
        if self.size == 1:
            return work()
        outcome: list[tuple[T | None, str | None]] = [(None, None)]
        if self.is_main:
            try:
                outcome = [(work(), None)]
            except VitrailError as error:
                outcome = [(None, str(error))]
        with self.contact():
            dist.broadcast_object_list(outcome, src=0)
        result, fault = outcome[0]
        if fault is not None:
            raise VitrailError(fault)
        return result  # type: ignore[return-value]  # T may itself be None

    def share_tensors(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Rank 0's CPU tensors on every rank (the others pass None)."""
        if self.size == 1:
            return dict(tensors or {})
        plan = self.on_main(lambda: [(name, t.shape, t.dtype) for name, t in (tensors or {}).items()])
        shared: dict[str, Tensor] = {}
        for name, shape, dtype in plan:
            value = tensors[name] if tensors else torch.empty(shape, dtype=dtype)
            with self.contact():
                dist.broadcast(value, src=0)
            shared[name] = value
        return shared

    @contextmanager
    def contact(self) -> Iterator[None]:
        """Turns the failure of a collective operation into a VitrailError that says what may have happened."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_lost_contact(error):
                raise
            raise VitrailError(
                f"rank {self.rank} of {self.size} lost contact with the others ({error}). One of them ended or hangs: "
                "look for its error above. Run the same command again to go on from the last checkpoint "
                "(torchrun --max-restarts does so by itself)"
            ) from error

    def _reduce(self, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with self.contact():
            dist.all_reduce(total, op=operation)
        return total.tolist()


def init(timeout_s: float = DEFAULT_TIMEOUT_S) -> World:
    """Join the processes that torchrun started; alone when it did not. Harmless when called again.

    Args:
        timeout_s: how long one rank waits for another before it gives up with an error.

    Raises:
        VitrailError: torchrun's environment is incomplete or the other processes do not answer.
    """
    size = _environment_number("WORLD_SIZE", 1)
    if size == 1:
        return World()
    world = World(_environment_number("RANK", 0), size, _environment_number("LOCAL_RANK", 0))
    if dist.is_initialized():
        return world
    backend = "cpu:gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, rank, ranks = next(rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
        # torchrun's own store outlives a restart; without a prefix the new processes would meet the old addresses.
        life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group(
            backend,
            timeout=timedelta(seconds=timeout_s),
            store=PrefixStore(f"vitrail-{life}", store),
            rank=rank,
            world_size=ranks,
        )
    except (RuntimeError, ValueError) as error:
        raise VitrailError(
            f"rank {world.rank} of {size} cannot join the others: {error}. Start with torchrun"
        ) from error
    return world


def close() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def resolve_device(name: str, world: World) -> torch.device:
    """The device that ``name`` means on this rank; "auto" is CUDA, then MPS, then the CPU.

    Raises:
        VitrailError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", world.local_rank % max(1, torch.cuda.device_count()))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise VitrailError(
            f"device {name!r} cannot be used here: {error}. Use auto, cpu or a device you have"
        ) from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise VitrailError(f"device {name!r} is not supported: use auto, cpu, cuda, cuda:<number> or mps")
    return device


def _environment_number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise VitrailError(f"environment variable {name}={text!r} is not a number: start with torchrun") from None


def _is_lost_contact(error: RuntimeError) -> bool:
    text = str(error).lower()
    signs = ("gloo", "nccl", "connection", "timed out", "timeout", "socket", "process group", "peer")
    return isinstance(error, dist.DistError) or any(sign in text for sign in signs)
