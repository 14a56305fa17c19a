"""Bulk jobs that survive being killed: finished parts stay, a second start does the rest.

Pictures are worked on in parts of a fixed length. Each part is written beside the result under its number, whole or not
at all, and the result is put together when the last one stands, one part in memory at a time. A part belongs to one
fingerprint (model, preprocessing, list of pictures); parts of another one are refused rather than mixed. A folder in
which no part stands yet is anybody's: a command that failed at once does not block its correction.
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
from vitrail.jobs.settings import make_folder
from vitrail.jobs.tables import Row, Table, check_table_name, write_table, writing

PART = 1024
"""Pictures a part: at most so many are worked on twice after a kill."""

Work = Callable[[range], list[Row] | None]
"""The rows of a range of pictures; None where every one of them was broken."""

_OWNER = "fingerprint"
_ROWS = "rows"


def fingerprint(*facts: object) -> str:
    """One short value for everything that a result depends on."""
    return hashlib.sha256(json.dumps([str(fact) for fact in facts]).encode()).hexdigest()[:16]


def run_in_parts(names: Sequence[str], key: str, work: Work, result: Path, part: int = PART) -> Table:
    """Rows for every picture, in order, into ``result``.

    Args:
        names: the pictures.
        key: fingerprint of everything else that the rows depend on.
        work: gives the rows of a range of pictures, or tells that all of them are broken.
        result: ``.csv``, ``.jsonl`` or ``.parquet``.
        part: pictures a part.

    Returns:
        The rows, which stay in the file.

    Raises:
        VitrailError: unfinished parts of another job stand in the way, the result cannot be written, or every picture
            of the job is broken.
    """
    check_table_name(result)
    folder = result.with_name(f".{result.name}.parts")
    owner = fingerprint(key, part, *names)
    _claim(folder, owner, result)
    files: list[Path] = []
    for start in range(0, len(names), part):
        file = folder / f"{start:012d}.npz"
        if not file.exists():
            rows = work(range(start, min(start + part, len(names))))
            _require_still(folder, owner)
            write_part(rows, file)
        files.append(file)
    if files and all(read_part(file) is None for file in files):
        shutil.rmtree(folder)  # Whoever mends a picture wants it looked at again.
        raise VitrailError("every picture was broken: nothing is left to work on")
    table = write_table(StoredParts(files), result)
    shutil.rmtree(folder)
    return table


def _claim(folder: Path, key: str, result: Path) -> None:
    make_folder(result.parent)
    make_folder(folder)
    owner = _owner(folder)
    if owner == key:
        return
    if any(folder.glob("*.npz")):
        if owner is None:
            raise VitrailError(f"{folder}: holds parts of unknown origin; delete it to start {result} over")
        raise VitrailError(
            f"{folder}: holds the unfinished parts of another job (other pictures, model or options); "
            f"finish that one, delete the folder, or give another --out than {result}"
        )
    temporary = folder / f".{_OWNER}.{os.getpid()}"
    with writing(folder / _OWNER):
        temporary.write_text(key, encoding="utf-8")
        temporary.replace(folder / _OWNER)


def _require_still(folder: Path, key: str) -> None:
    """Refuse to put a part among those of a job that has taken the folder over since."""
    if _owner(folder) != key:
        raise VitrailError(
            f"{folder}: another job with the same --out has taken it over, or has finished it; give each its own"
        )


def _owner(folder: Path) -> str | None:
    """The fingerprint that a folder's parts belong to; None where there is none."""
    file = folder / _OWNER
    return file.read_text(encoding="utf-8") if file.exists() else None


class StoredParts:
    """The rows of finished parts, read when they are gone through.

    Args:
        files: of the parts, in order.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __iter__(self) -> Iterator[list[Row]]:
        return (read_part(file) or [] for file in self.files)


def write_part(rows: list[Row] | None, file: Path) -> None:
    """Rows, or that there was nothing to have rows of, into a file, whole or not at all: vectors as arrays, the rest as
    JSON."""
    vectors = [name for name, value in rows[0].items() if isinstance(value, np.ndarray)] if rows else []
    arrays: dict[str, Any] = {f"column {name}": np.stack([row[name] for row in rows or ()]) for name in vectors}
    # A vector leaves an empty place in its row, which keeps the order of the columns.
    plain = rows and [{name: None if name in vectors else value for name, value in row.items()} for row in rows]
    text = json.dumps(plain, ensure_ascii=False).encode("utf-8", "surrogatepass")
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with writing(file):
        with temporary.open("wb") as stream:
            np.savez(stream, **{_ROWS: np.frombuffer(text, dtype=np.uint8)}, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)


def read_part(file: Path) -> list[Row] | None:
    """What :func:`write_part` was given."""
    with np.load(file, allow_pickle=False) as stored:
        rows: list[Row] | None = json.loads(stored[_ROWS].tobytes().decode("utf-8", "surrogatepass"))
        for name in stored.files:
            if name != _ROWS:
                for row, vector in zip(rows or (), stored[name], strict=True):
                    row[name.removeprefix("column ")] = vector
    return rows
