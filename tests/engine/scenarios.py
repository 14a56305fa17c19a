"""Trainings that run in a process of their own, to be killed, stopped or starved there."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vitrail import durable, engine
from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.engine import checkpoint, history
from vitrail.engine.step import Stepper

from .tiny import TinyLoader, TinyMethod, accuracy, tiny_config, weights


def die() -> None:
    """What ``kill -9`` and the kernel's memory killer do."""
    os.kill(os.getpid(), signal.SIGKILL)


class Countdown:
    """Dies at the ``hit``-th call."""

    def __init__(self, hit: int) -> None:
        self.left = hit

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            die()

    @property
    def next_is_last(self) -> bool:
        return self.left == 1


def _trap(place: str, hit: int) -> None:
    """Arrange for this process to die at a place of the engine's work."""
    count = Countdown(hit)
    if place == "before the optimiser step":
        _before(Stepper, "apply", count)
    elif place == "inside the step":
        _before(TinyMethod, "after_step", count)
    elif place == "half a checkpoint":
        write = checkpoint.save_file

        def half(tensors: dict[str, Tensor], path: Path, header: dict[str, str]) -> None:
            write(tensors, path, header)
            if count.next_is_last:
                os.truncate(path, path.stat().st_size // 2)
            count()

        checkpoint.save_file = half
    elif place in ("before the rename", "between the renames", "after the rename"):
        move = Path.replace

        def replace(self: Path, target: Path) -> Path:
            final = Path(target).name == "checkpoint.safetensors"
            keeps = Path(target).name == "checkpoint.previous.safetensors"
            if final and place == "before the rename":
                count()
            moved = move(self, target)
            if (final and place == "after the rename") or (keeps and place == "between the renames"):
                count()
            return moved

        Path.replace = replace  # type: ignore[method-assign]
    elif place == "half a row":
        append = history.MetricsTable._append_line

        def torn(self: history.MetricsTable, line: str) -> None:
            append(self, line[: len(line) // 2] if count.next_is_last else line)
            count()

        history.MetricsTable._append_line = torn  # type: ignore[method-assign]
    elif place in ("last batch", "validation"):
        pass  # in the loader and in the evaluation, below
    else:
        raise ValueError(place)


def _before(owner: type, name: str, act: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def replaced(self: Any, *arguments: Any) -> Any:
        act()
        return original(self, *arguments)

    setattr(owner, name, replaced)


class DeadlyLoader(TinyLoader):
    """Dies when asked for the last batch of the ``hit``-th epoch; slow when asked to be."""

    hit = 0
    pause = 0.0

    def batch(self, epoch: int, place: int) -> Batch:
        time.sleep(self.pause)
        if epoch + 1 == self.hit and place == self.batches - 1:
            die()
        return super().batch(epoch, place)


def killed(out: str, place: str | None = None, hit: int = 1, pause: float = 0.0) -> int:
    """A training with dropout, batch norm, moving average and an odd number of batches; dies at ``place``."""
    loader = DeadlyLoader(batches=7, last=3)
    loader.pause = pause
    count = Countdown(hit if place == "validation" else 0)
    loader.hit = hit if place == "last batch" else 0
    if place is not None:
        _trap(place, hit)
    measure = accuracy(TinyLoader())

    def evaluate(model: nn.Module) -> dict[str, float]:
        count()
        return measure(model)

    config = tiny_config(epochs=3, accumulate=2, ema_decay=0.9, checkpoint_every_steps=1, log_every=1)
    engine.fit(TinyMethod(dropout=0.2), loader, config, Path(out), evaluate=evaluate, console=Console(file=sys.stdout))
    return 0


# ── loader workers and signals ───────────────────────────────────────────────────────────────────────────────────


class _Pictures(Dataset):
    def __init__(self, pause: float) -> None:
        self.pause = pause

    def __len__(self) -> int:
        return 40

    def __getitem__(self, number: int) -> tuple[Tensor, int, int]:
        time.sleep(self.pause)
        generator = torch.Generator().manual_seed(number)
        return torch.randn(3, 2, 2, generator=generator), number % 3, number


class WorkerLoader:
    """Batches made by two forked worker processes."""

    def __init__(self, pause: float) -> None:
        self.pictures = _Pictures(pause)

    def __len__(self) -> int:
        return 10

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        places = torch.randperm(40, generator=torch.Generator().manual_seed(epoch))[4 * start :]
        loader = DataLoader(self.pictures, 4, sampler=places.tolist(), num_workers=2, multiprocessing_context="fork")
        for images, labels, numbers in loader:
            yield Batch(images, labels, numbers, tuple(map(str, numbers.tolist())))


def with_workers(out: str, pause: float, session: bool = True) -> int:
    """A training fed by workers, in a process group of its own, that leaves as a command line would."""
    if session:
        os.setsid()

    def told(method: TinyMethod, progress: Progress) -> None:
        Path(out, "steps").write_text(str(progress.step + 1))

    TinyMethod.after_step = told  # type: ignore[method-assign]
    try:
        engine.fit(
            TinyMethod(0.1), WorkerLoader(pause), tiny_config(epochs=2), Path(out), console=Console(file=sys.stdout)
        )
    except engine.Interrupted as stop:
        print(stop)
        return stop.exit_code
    return 0


# ── several ranks ────────────────────────────────────────────────────────────────────────────────────────────────


def rank(
    out: str,
    fault: str | None = None,
    at: int = 5,
    size: int = 4,
    timeout: float = 20.0,
    dropout: float = 0.0,
    **config: Any,
) -> int:
    """One rank of a training on ``size`` pictures a batch and rank; its outcome goes to ``outcome-RANK.json``."""
    started = time.monotonic()
    world = engine.init(timeout_s=timeout)
    loader = RankLoader(batches=6, size=size, rank=world.rank, world=world.size)
    loader.fault, loader.at = (fault, at) if world.rank == 1 else (None, 0)
    if fault == "full disk" and world.is_main:
        durable.sync = _full_disk
    outcome: dict[str, Any] = {"kind": "done"}
    method = TinyMethod(dropout, seed=world.rank)
    try:
        result = engine.fit(
            method,
            loader,
            tiny_config(epochs=3, **{"checkpoint_every_steps": 2, **config}),
            Path(out),
            evaluate=lambda model: {"rank": float(world.rank)},
            fingerprint={"global_batch": str(size * world.size * int(config.get("accumulate", 1)))},
            console=Console(file=sys.stdout),
        )
        outcome |= {"metrics": dict(result.metrics), "resumed": result.resumed}
        save_file(weights(method), Path(out, f"weights-{world.rank}.safetensors"))
    except engine.Interrupted as stop:
        outcome = {"kind": "interrupted", "exit_code": stop.exit_code}
    except VitrailError as error:
        outcome = {"kind": "error", "message": str(error)}
    outcome["seconds"] = time.monotonic() - started
    Path(out, f"outcome-{world.rank}.json").write_text(json.dumps(outcome))
    if outcome["kind"] == "done":
        engine.close()
    return 0 if outcome["kind"] == "done" else outcome.get("exit_code", 1)


class RankLoader(TinyLoader):
    """Something happens to this rank while its ``at``-th batch is made."""

    fault: str | None = None
    at = 0
    made = 0

    def batch(self, epoch: int, place: int) -> Batch:
        batch = super().batch(epoch, place)
        self.made += 1
        if self.made == self.at:
            if self.fault == "kill":
                die()
            elif self.fault == "hang":
                time.sleep(60)
            elif self.fault == "sigterm":
                os.kill(os.getpid(), signal.SIGTERM)
            elif self.fault == "broken picture":
                raise VitrailError("this picture is broken")
            elif self.fault == "nan":
                batch.images[1, 0, 0, 0] = float("nan")
        return batch


def _full_disk(path: Path) -> None:
    raise OSError(28, "No space left on device", str(path))


SCENARIOS: dict[str, Callable[..., int]] = {"killed": killed, "with_workers": with_workers, "rank": rank}


if __name__ == "__main__":
    # Under torchrun: one fault in the first life, none after a restart.
    first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    sys.exit(rank(sys.argv[1], "kill" if first_life else None, at=9, timeout=15.0))
