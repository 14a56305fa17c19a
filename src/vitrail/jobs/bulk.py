"""Bulk jobs that survive being killed: finished parts stay, a second start does the rest.

Pictures are worked on in parts of a fixed length. Each part is written beside the result under its number, whole or not
at all, and the result is put together when the last one stands, one part in memory at a time. A part belongs to one
fingerprint (model, preprocessing, list of pictures); parts of another one are refused rather than mixed. A part that is
damaged, or whose pictures have changed since, is worked on again. A folder in which no part stands yet is anybody's: a
command that failed at once does not block its correction.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.contracts import VitrailError
from vitrail.durable import write_durably
from vitrail.jobs.progress import say
from vitrail.jobs.settings import make_folder
from vitrail.jobs.tables import Row, Table, check_table_name, write_table

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
        names: the pictures, those that are files by their paths: parts of files that change are worked on again.
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
    files = {
        folder / f"{start:012d}.npz": range(start, min(start + part, len(names)))
        for start in range(0, len(names), part)
    }
    standing = _standing(names, files)
    for file, numbers in files.items():
        if file not in standing:
            # Before the work: what changes meanwhile is as good as changed later.
            state = _state(names, numbers)
            rows = work(numbers)
            _require_still(folder, owner)
            write_part(rows, file, state)
    if files and all(read_part(file) is None for file in files):
        shutil.rmtree(folder)  # Whoever mends a picture wants it looked at again.
        raise VitrailError("every picture was broken: nothing is left to work on")
    table = write_table(StoredParts(list(files)), result)
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
    write_durably(folder / _OWNER, lambda path: path.write_text(key, encoding="utf-8"))


def _require_still(folder: Path, key: str) -> None:
    """Refuse to put a part among those of a job that has taken the folder over since."""
    if _owner(folder) != key:
        raise VitrailError(
            f"{folder}: another job with the same --out has taken it over, or has finished it; give each its own"
        )


def _owner(folder: Path) -> str | None:
    """The fingerprint that a folder's parts belong to; None where there is none."""
    file = folder / _OWNER
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else None


def _standing(names: Sequence[str], files: Mapping[Path, range]) -> set[Path]:
    """The parts that an earlier start has left whole, of pictures that are still as they were; says which are not."""
    standing: set[Path] = set()
    changed = 0
    for file, numbers in files.items():
        if not file.exists():
            continue
        try:
            state = _stored(file)[0]
        except DamagedPart:
            say(f"{file}: is damaged; its pictures are worked on again")
            continue
        if state == _state(names, numbers):
            standing.add(file)
        else:
            changed += 1
    if changed:
        say(f"{changed} finished parts are of pictures that have changed since; they are worked on again")
    return standing


def _state(names: Sequence[str], numbers: range) -> str:
    """A fingerprint of some pictures' sizes and times of change; what is no file does not change."""
    facts: list[object] = []
    for number in numbers:
        try:
            file = Path(names[number]).stat()
        except OSError:
            facts.append(None)
        else:
            facts.append((file.st_size, file.st_mtime_ns))
    return fingerprint(*facts)


class StoredParts:
    """The rows of finished parts, read when they are gone through.

    Args:
        files: of the parts, in order.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __iter__(self) -> Iterator[list[Row]]:
        return (read_part(file) or [] for file in self.files)


class DamagedPart(VitrailError):
    """A part's file is not as it was written."""


def write_part(rows: list[Row] | None, file: Path, state: str = "") -> None:
    """Rows into a file, whole or not at all: vectors as arrays, the rest as JSON.

    Args:
        rows: None where there was nothing to have rows of.
        file: of the part.
        state: what the rows are of, one word that goes with them.
    """
    vectors = [name for name, value in rows[0].items() if isinstance(value, np.ndarray)] if rows else []
    arrays: dict[str, Any] = {f"column {name}": np.stack([row[name] for row in rows or ()]) for name in vectors}
    # A vector leaves an empty place in its row, which keeps the order of the columns.
    plain = rows and [{name: None if name in vectors else value for name, value in row.items()} for row in rows]
    text = json.dumps(plain, ensure_ascii=False).encode("utf-8", "surrogatepass")
    buffer = BytesIO()
    np.savez(buffer, **{_ROWS: np.frombuffer(text, dtype=np.uint8)}, **arrays)
    content = buffer.getvalue()
    head = f"{state} {_digest(state.encode(), content)}\n".encode()
    write_durably(file, lambda path: path.write_bytes(head + content))


def read_part(file: Path) -> list[Row] | None:
    """The rows that :func:`write_part` was given.

    Raises:
        DamagedPart: they are not as they were.
    """
    with np.load(BytesIO(_stored(file)[1]), allow_pickle=False) as stored:
        rows: list[Row] | None = json.loads(stored[_ROWS].tobytes().decode("utf-8", "surrogatepass"))
        for name in stored.files:
            if name != _ROWS:
                for row, vector in zip(rows or (), stored[name], strict=True):
                    row[name.removeprefix("column ")] = vector
    return rows


def _stored(file: Path) -> tuple[str, bytes]:
    """The state and the content of a part, which are known to be as they were written."""
    # A zip's own checks are met too late, and by as many kinds of errors as there are bytes to be wrong.
    head, _, content = file.read_bytes().partition(b"\n")
    state, _, digest = head.partition(b" ")
    if digest.decode("ascii", "replace") != _digest(state, content):
        raise DamagedPart(f"{file}: this part of an unfinished job is damaged; run the same command again")
    return state.decode(), content


def _digest(state: bytes, content: bytes) -> str:
    return hashlib.sha256(state + b" " + content).hexdigest()
