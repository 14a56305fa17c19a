"""Whose a run folder is: a new run's, that of one that goes on, or another's that must not be touched."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from operator import eq
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitrail.contracts import VitrailError
from vitrail.data import Splits
from vitrail.durable import clean_partial
from vitrail.engine import CHECKPOINT, LOCK, RUN_FILES, World
from vitrail.jobs.pretraining.pictures import sheets
from vitrail.jobs.run import CONFIG, LEFT_OUT, METRICS, MODEL, PICTURES, open_run, require_own, same_data
from vitrail.jobs.settings import make_folder, read_config, to_plain
from vitrail.jobs.training import FREE, Training
from vitrail.weights import is_artefact

RESULTS = (*RUN_FILES, LEFT_OUT, METRICS)


def begun(config: Training, out: Path) -> bool:
    """Whether a run has a checkpoint that it goes on from."""
    return not config.fresh and (out / CHECKPOINT).exists()


def pictures_fingerprint(
    splits: Splits, world: World, probabilities: NDArray[np.float32] | None = None
) -> dict[str, str]:
    """Which pictures with which labels are trained on and held out, for the fingerprint of a run.

    The files are not read: of their content it is the size in bytes that tells. When they were written does not
    matter, so that a run may go on with a copy of its data.

    Args:
        splits: the pictures.
        world: the processes that train together; each calls this, the first looks at the files.
        probabilities: what is learnt besides the labels.
    """
    return world.on_main(lambda: _pictures_fingerprint(splits, probabilities))


def _pictures_fingerprint(splits: Splits, probabilities: NDArray[np.float32] | None) -> dict[str, str]:
    names, sizes, files, total = hashlib.sha256(), hashlib.sha256(), 0, 0
    for source in splits:
        for index in range(len(source)):
            name = source.name(index)
            names.update(f"{name}\0{source.label(index)}\n".encode("utf-8", "surrogatepass"))
            size = _bytes_in(name)
            sizes.update(f"{size}\n".encode())
            if size is not None:
                files, total = files + 1, total + size
    if probabilities is not None:
        names.update(probabilities.tobytes())
    count = f"{len(splits.train)} to train on, {len(splits.val)} held out"
    return {
        "pictures, by names and labels": f"{count} ({names.hexdigest()[:16]})",
        "content of the pictures, by sizes of files": f"{total:,} bytes in {files} files ({sizes.hexdigest()[:16]})",
    }


def _bytes_in(name: str) -> int | None:
    """The size of a picture's file; None where the name is not a file's (a picture within one, a folder of frames)."""
    try:
        found = Path(name).stat()
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def claim(verb: str, config: Training, out: Path, reads: Iterable[str | None], free: Sequence[str] = FREE) -> None:
    """Make sure that ``out`` may be this run's: new, going on, or started over. What an earlier run left stays there.

    Args:
        verb: of the command line.
        config: what is asked for.
        out: the run's folder; made when missing.
        reads: what the run reads: of them, paths must not lie in a folder that is started over.
        free: options that may differ when a run goes on.

    Raises:
        VitrailError: it holds a run that was asked for something else, or is no run folder at all; it cannot be
            written into; starting over would remove what the run reads.
    """
    stored = out / CONFIG
    if out.is_dir():
        clean_partial(out)
        if any(path.name != LOCK for path in out.iterdir()) and not stored.is_file():
            raise VitrailError(f"{out}: holds files that are not a run's; give an empty or new folder with --out")
    require_own(verb, out)
    make_folder(out)
    if _goes_on(config, out):
        _refuse_another(read_config(stored), to_plain(config), out, free)
    elif stored.is_file():
        _refuse_to_lose(reads, out)


def take(verb: str, config: Training, out: Path, world: World) -> None:
    """Make the claimed folder this run's: to be called when all is ready, right before training, by who holds its lock.

    Of a run that is started over, what it wrote before is removed here.

    Args:
        verb: of the command line.
        config: what is asked for.
        out: the run's folder.
        world: the processes that train together; each calls this.

    Raises:
        VitrailError: it cannot be written.
    """
    # Every process is to have judged its part of the command before the first one removes anything.
    world.gather(None)
    world.on_main(lambda: _take(verb, config, out))


def _take(verb: str, config: Training, out: Path) -> None:
    if _goes_on(config, out):
        return
    if (out / CONFIG).is_file():
        try:
            _forget(out)
        except OSError as error:
            raise VitrailError(f"{out}: the run there cannot be removed ({error}); give another --out") from error
    open_run(verb, config, out)


def _goes_on(config: Training, out: Path) -> bool:
    return not config.fresh and (out / CONFIG).is_file() and any((out / name).exists() for name in RESULTS)


def _refuse_to_lose(reads: Iterable[str | None], out: Path) -> None:
    for name in reads:
        if name and Path(name).exists() and Path(name).resolve().is_relative_to(out.resolve()):
            raise VitrailError(
                f"{name}: lies in {out}, the folder of a run that is to be started over, and would be removed; "
                "give another --out"
            )


def _forget(out: Path) -> None:
    """Remove what the run wrote, and nothing else that lies beside it.

    Its config stays until the next one takes its place: a folder without one could not be started over again.
    """
    for name in (*RESULTS, "report.html"):
        (out / name).unlink(missing_ok=True)
    if is_artefact(out / MODEL):
        shutil.rmtree(out / MODEL, ignore_errors=True)
    for file in (*sheets(out / PICTURES), *(out / "tensorboard").glob("events.*")):
        file.unlink()
    for folder in (PICTURES, "tensorboard"):
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
