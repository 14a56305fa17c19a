"""Bulk jobs that survive being killed: finished parts stay, a second start does the rest.

Pictures are worked on in parts of a fixed length. Each part is written beside the result under its number, whole or not
at all, and the result is put together when the last one stands. A part belongs to one fingerprint (model,
preprocessing, list of pictures); parts of another one are refused rather than mixed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from vitrail.contracts import VitrailError
from vitrail.jobs.tables import Row, write_table

PART = 1024
"""Pictures a part: at most so many are worked on twice after a kill."""


def fingerprint(*facts: object) -> str:
    """One short value for everything that a result depends on."""
    return hashlib.sha256(json.dumps([str(fact) for fact in facts]).encode()).hexdigest()[:16]


def run_in_parts(
    names: Sequence[str], key: str, work: Callable[[range], list[Row]], result: Path, part: int = PART
) -> list[Row]:
    """Rows for every picture, in order, into ``result``.

    Args:
        names: the pictures.
        key: fingerprint of everything else that the rows depend on.
        work: gives the rows of a range of pictures.
        result: ``.csv``, ``.jsonl`` or ``.parquet``.
        part: pictures a part.

    Raises:
        VitrailError: unfinished parts of another job stand in the way.
    """
    folder = result.with_name(f".{result.name}.parts")
    _claim(folder, fingerprint(key, part, *names), result)
    rows: list[Row] = []
    for start in range(0, len(names), part):
        file = folder / f"{start:012d}.json"
        if not file.exists():
            _write_part(work(range(start, min(start + part, len(names)))), file)
        rows.extend(json.loads(file.read_text(encoding="utf-8")))
    write_table(rows, result)
    shutil.rmtree(folder)
    return rows


def _claim(folder: Path, key: str, result: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / "fingerprint"
    if not owner.exists():
        if any(folder.glob("*.json")):
            raise VitrailError(f"{folder}: holds parts of unknown origin; delete it to start {result} over")
        temporary = folder / f".fingerprint.{os.getpid()}"
        temporary.write_text(key, encoding="utf-8")
        temporary.replace(owner)
    elif owner.read_text(encoding="utf-8") != key:
        raise VitrailError(
            f"{folder}: holds the unfinished parts of another job (other pictures, model or options); "
            f"finish that one, delete the folder, or give another --out than {result}"
        )


def _write_part(rows: list[Row], file: Path) -> None:
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(rows, stream, ensure_ascii=False)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
