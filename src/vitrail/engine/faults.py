"""What the engine says and writes when a step fails: numbers that are not finite, memory that runs out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vitrail.contracts import Batch, Progress, VitrailError

from .config import EngineConfig
from .durable import write_durably
from .step import Gradients

NONFINITE = "nonfinite.json"


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


def write_nonfinite(out: Path, progress: Progress, ranks: Sequence[dict[str, Any]]) -> Path:
    """Write ``nonfinite.json``: the step, and every rank's account of it."""
    path = out / NONFINITE
    document = {
        "step": progress.step,
        "epoch": progress.epoch,
        "reproduce": "load the last checkpoint, call torch.manual_seed(seed) and random.seed(seed), then run the batch",
        "ranks": list(ranks),
    }
    content = json.dumps(document, indent=1, allow_nan=False)
    write_durably(path, lambda temporary: _write_text(temporary, content))
    return path


def nonfinite_message(path: Path, progress: Progress, ranks: Sequence[dict[str, Any]]) -> str:
    """One paragraph for the user, naming the likely culprits."""
    bad = sorted({name for rank in ranks for name in rank["parameters_with_nonfinite_gradient"]})
    first = ranks[0]["batches"][0]
    names = [name for rank in ranks for batch in rank["batches"] for name in batch["names"]]
    where = f"gradients of {', '.join(bad[:5])}{' …' if len(bad) > 5 else ''}" if bad else "no single gradient"
    return (
        f"step {progress.step} (epoch {progress.epoch}): the loss ({first['losses']['loss']}) or the gradient norm "
        f"({ranks[0]['grad_norm']}) is not finite; not finite: {where}. Stopped before the optimiser step, so "
        f"the weights and the last checkpoint are healthy. The batch ({names[0]} … {names[-1]}), its losses and seeds "
        f"are in {path}. Look at those pictures, or try a lower lr, clip_norm=1.0 or precision='fp32'"
    )


@contextmanager
def explain_memory(
    group: Sequence[Batch], config: EngineConfig, precision: str, device: torch.device
) -> Iterator[None]:
    """Turns an out-of-memory failure into a VitrailError that says what can be changed."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        size = max(len(batch) for batch in group)
        advice = [f"halve the batch size (now {size}) and double accumulate (now {config.accumulate}): same result"]
        if precision == "fp32":
            advice.append("precision='bf16'")
        advice.append("smaller pictures or a smaller model")
        raise VitrailError(
            f"out of memory on {device} with a batch of {size} pictures of {tuple(group[0].images.shape[1:])}. "
            f"Nothing was changed by itself. Try: {'; '.join(advice)}. ({str(error).partition(chr(10))[0]})"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "can't allocate memory" in text or "out of memory" in text


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _write_text(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")
