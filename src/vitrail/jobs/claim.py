"""Whose a run folder is: a new run's, that of one that goes on, or another's that must not be touched."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import eq
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitrail.contracts import VitrailError
from vitrail.data import Splits
from vitrail.jobs.run import CONFIG, METRICS, MODEL, PICTURES, open_run, require_own, same_data
from vitrail.jobs.settings import read_config, to_plain
from vitrail.jobs.training import FREE, Training
from vitrail.weights import is_artefact

RESULTS = ("checkpoint.safetensors", "checkpoint.previous.safetensors", "metrics.csv", "nonfinite.json", METRICS)


def begun(out: Path) -> bool:
    """Whether a run has a checkpoint to go on from."""
    return (out / RESULTS[0]).exists()


def pictures_digest(splits: Splits, probabilities: NDArray[np.float32] | None = None) -> str:
    """A short fingerprint of which pictures with which labels are trained on and held out."""
    names = hashlib.sha256()
    for source in splits:
        for index in range(len(source)):
            names.update(f"{source.name(index)}\0{source.label(index)}\n".encode("utf-8", "surrogatepass"))
    if probabilities is not None:
        names.update(probabilities.tobytes())
    return names.hexdigest()[:16]


def claim(verb: str, config: Training, out: Path, free: Sequence[str] = FREE) -> None:
    """Make ``out`` this run's: new, going on, or started over.

    Args:
        verb: of the command line.
        config: what is asked for.
        out: the run's folder.
        free: options that may differ when a run goes on.

    Raises:
        VitrailError: it holds a run that was asked for something else, or is no run folder at all.
    """
    stored = out / CONFIG
    if out.is_dir() and any(out.iterdir()) and not stored.is_file():
        raise VitrailError(f"{out}: holds files that are not a run's; give an empty or new folder with --out")
    require_own(verb, out)
    if stored.is_file() and any((out / name).exists() for name in RESULTS) and not config.fresh:
        _refuse_another(read_config(stored), to_plain(config), out, free)
        return
    if stored.is_file():
        _forget(config.data, out)
    open_run(verb, config, out)


def _forget(data: str, out: Path) -> None:
    """Remove what the run wrote, and nothing else that lies beside it."""
    if Path(data).exists() and Path(data).resolve().is_relative_to(out.resolve()):
        raise VitrailError(f"{data}: lies in {out}, the folder of a run that is to be started over; give another --out")
    for name in (*RESULTS, "report.html", CONFIG):
        (out / name).unlink(missing_ok=True)
    if is_artefact(out / MODEL):
        shutil.rmtree(out / MODEL, ignore_errors=True)
    for folder, files in ((PICTURES, "*.png"), ("tensorboard", "events.*")):
        for file in (out / folder).glob(files):
            file.unlink()
        with suppress(OSError):
            (out / folder).rmdir()


def _refuse_another(stored: Mapping[str, object], wanted: Mapping[str, object], out: Path, free: Sequence[str]) -> None:
    names = [name for name in {**stored, **wanted} if name not in (*free, "out")]
    differing = [
        f"{name} was {json.dumps(stored.get(name, 'the default'))}, is {json.dumps(wanted.get(name, 'the default'))}"
        for name in names
        if not (same_data if name == "data" else eq)(stored.get(name), wanted.get(name))
    ]
    if differing:
        raise VitrailError(
            f"{out} holds a run that was asked for something else: {'; '.join(differing)}. "
            "Repeat its options to go on, add --fresh to start it over, or give another --out"
        )
