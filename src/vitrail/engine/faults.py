"""What the engine says and writes when a step fails: numbers that are not finite, memory that runs out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.durable import write_durably

from .config import EngineConfig
from .files import NONFINITE
from .step import Gradients


def describe_nonfinite(gradients: Gradients, bad: Sequence[str], rank: int) -> dict[str, Any]:
    """What one rank knows of its step: batches, losses, seeds, gradients that are not finite."""
    batches = [
        {
            "names": list(batch.names),
            "indices": batch.indices.tolist(),
            "seed": seed,
            "losses": {name: _json_number(float(value)) for name, value in terms.items()},
        }
        for batch, seed, terms in zip(gradients.group, gradients.seeds, gradients.terms, strict=True)
    ]
    return {
        "rank": rank,
        "grad_norm": _json_number(float(gradients.norm)),
        "parameters_with_nonfinite_gradient": list(bad),
        "batches": batches,
    }


@dataclass(frozen=True)
class Kept:
    """What is left of a run that a step was refused in.

    Attributes:
        path: of the checkpoint.
        step: that the newest checkpoint goes on with; None where there is none.
        fault: why the run could not be kept as it was before the refused step; None where it was.
        precision: "fp32" or "bf16".
        way: that the step was computed in, see :class:`vitrail.engine.Ways`.
    """

    path: Path
    step: int | None
    fault: str | None
    precision: str
    way: str

    def told(self) -> str:
        """For the message: which checkpoint there is."""
        if self.fault is None:
            return f"and {self.path} holds the run as it was before it: the same command begins with this very step"
        last = "there is none yet" if self.step is None else f"the last one goes on with step {self.step}"
        return f"but there is no checkpoint of that moment ({self.fault}); {last}"

    def recipe(self, step: int) -> str:
        """For ``nonfinite.json``: how to see the step again."""
        if self.step is None:
            return (
                f"run the same command again: it starts from the beginning (there is no checkpoint) up to step {step}"
            )
        if self.step != step:
            return f"run the same command again: it goes on from {self.path.name} with step {self.step}, up to {step}"
        return (
            f"run the same command again: it begins with this step. By hand: load the tensors 'method/...' of "
            f"{self.path.name}, with the method in training mode; for each batch, in {self.precision}, call "
            "torch.manual_seed(seed) and random.seed(seed), then the method"
        )


def write_nonfinite(out: Path, progress: Progress, ranks: Sequence[dict[str, Any]], kept: Kept) -> Path:
    """Write ``nonfinite.json``: the step, how to see it again, and every rank's account of it."""
    path = out / NONFINITE
    document = {
        "step": progress.step,
        "epoch": progress.epoch,
        "checkpoint_step": kept.step,
        "precision": kept.precision,
        "computed_by": kept.way,
        "reproduce": kept.recipe(progress.step),
        "ranks": list(ranks),
    }
    content = json.dumps(document, indent=1, allow_nan=False)
    write_durably(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))
    return path


def nonfinite_message(path: Path, progress: Progress, ranks: Sequence[dict[str, Any]], kept: Kept) -> str:
    """One paragraph for the user, naming the likely culprits."""
    bad = sorted({name for rank in ranks for name in rank["parameters_with_nonfinite_gradient"]})
    first = ranks[0]["batches"][0]
    names = [name for rank in ranks for batch in rank["batches"] for name in batch["names"]]
    where = f"gradients of {', '.join(bad[:5])}{' …' if len(bad) > 5 else ''}" if bad else "no single gradient"
    return (
        f"step {progress.step} (epoch {progress.epoch}): the loss ({first['losses']['loss']}) or the gradient norm "
        f"({ranks[0]['grad_norm']}) is not finite; not finite: {where}. Stopped before the optimiser step, "
        f"{kept.told()}. The batch ({names[0]} … {names[-1]}), its losses and seeds are in {path}. Look at those "
        "pictures, or start over with a lower lr, clip_norm=1.0 or precision='fp32'"
    )


@dataclass(frozen=True)
class Memory:
    """What is known of a run when memory runs out.

    Attributes:
        config: of the run.
        precision: "fp32" or "bf16".
        device: where.
        batch_size: pictures of a step over all processes, as the user gave it (see :data:`.resume.GLOBAL_BATCH`); None
            where only the loader knows.
        processes: how many train together.
    """

    config: EngineConfig
    precision: str
    device: torch.device
    batch_size: str | None
    processes: int

    @contextmanager
    def explained(self, group: Sequence[Batch]) -> Iterator[None]:
        """Turns an out-of-memory failure into a VitrailError that says what can be changed."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            advice = [*self._smaller_parts(group)]
            if self.precision == "fp32":
                advice.append("precision='bf16'")
            advice.append("smaller pictures or a smaller model")
            raise VitrailError(
                f"out of memory on {self.device} with {self._numbers(group)}. Nothing was changed by itself. "
                f"Try: {'; '.join(advice)}. ({str(error).partition(chr(10))[0]})"
            ) from error

    def _numbers(self, group: Sequence[Batch]) -> str:
        at_once = f"{self._at_once(group)} pictures of {tuple(group[0].images.shape[1:])} at once"
        if self.batch_size is None:
            return f"{at_once} (a batch of the loader, of which accumulate={self.config.accumulate} make a step)"
        parts = f"accumulate {self.config.accumulate}" + (f" x {self.processes} processes" * (self.processes > 1))
        return f"{at_once} (batch_size {self.batch_size} / {parts})"

    def _at_once(self, group: Sequence[Batch]) -> int:
        """Pictures of one part of a step: what was asked for, for a broken picture may be missing from the batch."""
        if self.batch_size is not None and self.batch_size.isdecimal():
            return int(self.batch_size) // (self.config.accumulate * self.processes)
        return max(len(batch) for batch in group)

    def _smaller_parts(self, group: Sequence[Batch]) -> Iterator[str]:
        at_once = self._at_once(group)
        if at_once < 2:
            return
        # By two, or by the next number that leaves no picture over.
        times = next(number for number in range(2, at_once + 1) if at_once % number == 0)
        part, accumulate = at_once // times, f"accumulate={self.config.accumulate * times}"
        if self.batch_size is None:
            change = f"batches of {part} from the loader with {accumulate}"
        else:
            change = f"{accumulate} with batch_size={self.batch_size} as it is"
        yield f"{change} ({part} pictures at once, and each step learns from the same ones)"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "can't allocate memory" in text or "out of memory" in text


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
