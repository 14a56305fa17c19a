"""Bulk jobs that survive being killed: finished parts stay, a second start does the rest.

Pictures are worked on in parts of a fixed length. Each part is written beside the result under its number, whole or not
at all, and the result is put together when the last one stands, one part in memory at a time. A part belongs to one
fingerprint (model, preprocessing, list of pictures); parts of another one are refused rather than mixed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.contracts import VitrailError
from vitrail.jobs.tables import Row, Table, check_table_name, write_table

PART = 1024
"""Pictures a part: at most so many are worked on twice after a kill."""

_ROWS = "rows"


def fingerprint(*facts: object) -> str:
    """One short value for everything that a result depends on."""
    return hashlib.sha256(json.dumps([str(fact) for fact in facts]).encode()).hexdigest()[:16]


def run_in_parts(
    names: Sequence[str], key: str, work: Callable[[range], list[Row]], result: Path, part: int = PART
) -> Table:
    """Rows for every picture, in order, into ``result``.

    Args:
        names: the pictures.
        key: fingerprint of everything else that the rows depend on.
        work: gives the rows of a range of pictures.
        result: ``.csv``, ``.jsonl`` or ``.parquet``.
        part: pictures a part.

    Returns:
        The rows, which stay in the file.

    Raises:
        VitrailError: unfinished parts of another job stand in the way, or the result cannot be written.
    """
    check_table_name(result)
    folder = result.with_name(f".{result.name}.parts")
    _claim(folder, fingerprint(key, part, *names), result)
    files: list[Path] = []
    for start in range(0, len(names), part):
        file = folder / f"{start:012d}.npz"
        if not file.exists():
            write_part(work(range(start, min(start + part, len(names)))), file)
        files.append(file)
    table = write_table(StoredParts(files), result)
    shutil.rmtree(folder)
    return table


def _claim(folder: Path, key: str, result: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / "fingerprint"
    if not owner.exists():
        if any(folder.glob("*.npz")):
            raise VitrailError(f"{folder}: holds parts of unknown origin; delete it to start {result} over")
        temporary = folder / f".fingerprint.{os.getpid()}"
        temporary.write_text(key, encoding="utf-8")
        temporary.replace(owner)
    elif owner.read_text(encoding="utf-8") != key:
        raise VitrailError(
            f"{folder}: holds the unfinished parts of another job (other pictures, model or options); "
            f"finish that one, delete the folder, or give another --out than {result}"
        )


class StoredParts:
    """The rows of finished parts, read when they are gone through.

    Args:
        files: of the parts, in order.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __iter__(self) -> Iterator[list[Row]]:
        return map(read_part, self.files)


def write_part(rows: list[Row], file: Path) -> None:
    """Rows into a file, whole or not at all: vectors as arrays, the rest as JSON."""
    vectors = [name for name, value in rows[0].items() if isinstance(value, np.ndarray)] if rows else []
    arrays: dict[str, Any] = {f"column {name}": np.stack([row[name] for row in rows]) for name in vectors}
    # A vector leaves an empty place in its row, which keeps the order of the columns.
    plain = [{name: None if name in vectors else value for name, value in row.items()} for row in rows]
    text = json.dumps(plain, ensure_ascii=False).encode("utf-8", "surrogatepass")
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.savez(stream, **{_ROWS: np.frombuffer(text, dtype=np.uint8)}, **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def read_part(file: Path) -> list[Row]:
    """The rows of :func:`write_part`."""
    with np.load(file, allow_pickle=False) as stored:
        rows = json.loads(stored[_ROWS].tobytes().decode("utf-8", "surrogatepass"))
        for name in stored.files:
            if name != _ROWS:
                for row, vector in zip(rows, stored[name], strict=True):
                    row[name.removeprefix("column ")] = vector
    return rows
