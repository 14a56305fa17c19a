"""A CSV file that names pictures and their labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitrail.contracts import VitrailError
from vitrail.data.files import printable
from vitrail.data.sources.base import PathSource

Part = Literal["train", "val"]
_PROBABILITY = "p:"
_PARTS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "val",
}


class _Row(NamedTuple):
    line: int
    path: str
    label: str
    caption: str
    part: str
    probabilities: dict[str, float]


class CsvSource(PathSource):
    """Pictures listed in a CSV file with a header line.

    Columns: ``image`` (a path, relative to the CSV file's folder or absolute), ``label`` (any text), and optionally
    ``split`` (``train``; ``val``, ``valid``, ``validation`` or ``test``). Where annotators disagreed, a column
    ``p:CLASS`` for each class may give its probability in the picture (each row adds up to 1). Others are ignored.
    UTF-8, comma-separated. Classes are the labels of the whole file, sorted; as numbers where all of them are whole
    numbers. Where pictures come with sentences, they stand in a column ``caption``; a picture with several captions has
    as many rows. Rows are of one picture when their paths are the same, however they are written.

    Args:
        path: the CSV file.
        part: only the rows of this split, or all rows.
        channels: 3 (RGB) or 1 (grey).
        labelled: False ignores the label column, which may then be missing.
        captioned: True needs the caption column, which is ignored otherwise.

    Attributes:
        captions: one for each picture when ``captioned``, else none.

    Raises:
        VitrailError: unreadable, columns missing or there twice, no rows, rows with more cells than the header or
            without label or caption, a picture listed with two labels or in both splits, probabilities that are none,
            files that do not exist (each named with its line).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        part: Part | None = None,
        channels: int = 3,
        labelled: bool = True,
        captioned: bool = False,
    ) -> None:
        self.path = Path(path)
        self.part = part
        rows, self.has_split = _read_rows(self.path, labelled, captioned)
        _check_unique(self.path, rows)
        _check_files(self.path, rows)
        self.classes = _sorted_labels({row.label for row in rows}) if labelled else ()
        if part is not None:
            if not self.has_split:
                raise VitrailError(f"{printable(self.path)}: has no split column")
            rows = [row for row in rows if row.part == part]
            if not rows:
                raise VitrailError(f"{printable(self.path)}: no row has the split {part!r}")
        super().__init__((row.path for row in rows), channels)
        self.captions = tuple(row.caption for row in rows) if captioned else ()
        numbers = {label: number for number, label in enumerate(self.classes)}
        self.labels = np.array([numbers.get(row.label, -1) for row in rows], dtype=np.int64)
        self.picture_ids = _picture_ids(rows)
        if any(row.probabilities for row in rows):
            self.probabilities = _probabilities(self.path, rows, self.classes)

    def describe(self) -> dict[str, Any]:
        """Kind, file, split and length."""
        return {"kind": "csv", "path": os.fspath(self.path), "part": self.part, "length": len(self)}


def _read_rows(path: Path, labelled: bool, captioned: bool) -> tuple[list[_Row], bool]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, strict=True)
            columns = _columns(path, table.fieldnames or (), labelled, captioned)
            rows = [_row(path, table.line_num, values, columns, labelled, captioned) for values in table]
    except UnicodeDecodeError as error:
        raise VitrailError(f"{printable(path)}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise VitrailError(f"{printable(path)}: is not a proper CSV file: {error}") from None
    except OSError as error:
        raise VitrailError(f"{printable(path)}: cannot be read: {error.strerror or error}") from None
    if not rows:
        raise VitrailError(f"{printable(path)}: lists no pictures")
    return rows, "split" in columns


def _columns(path: Path, header: Sequence[str], labelled: bool, captioned: bool) -> dict[str, str]:
    """What stands in the header by the names that are looked for."""
    needed = ("image", *("label",) * labelled, *("caption",) * captioned)
    columns: dict[str, str] = {}
    for column in header:
        name = _column_name(column)
        read = name in (*needed, "split") or (labelled and name.startswith(_PROBABILITY))
        if read and name in columns:
            raise VitrailError(
                f"{printable(path)}: the header has the column {printable(name)} twice; rename one of them"
            )
        columns[name] = column
    missing = [name for name in needed if name not in columns]
    if missing:
        have = ", ".join(columns) or "none"
        raise VitrailError(f"{printable(path)}: the header lacks the column {' and '.join(missing)}; it has: {have}")
    return columns


def _column_name(column: str) -> str:
    """Lower case, but for a class, whose name is as the labels write it."""
    name = column.strip()
    if name[: len(_PROBABILITY)].lower() == _PROBABILITY:
        return _PROBABILITY + name[len(_PROBABILITY) :].strip()
    return name.lower()


def _row(
    path: Path, line: int, values: dict[str | Any, Any], columns: dict[str, str], labelled: bool, captioned: bool
) -> _Row:
    # The csv module keeps what is beyond the header under the key None.
    if any(surplus.strip() for surplus in values.get(None, ())):
        raise VitrailError(
            f"{printable(path)}, line {line}: has more cells than the header; a comma within a cell needs it in quotes"
        )

    def cell(name: str) -> str:
        return (values.get(columns[name]) or "").strip() if name in columns else ""

    image, label, part = cell("image"), cell("label") if labelled else "", cell("split").lower()
    caption = cell("caption") if captioned else ""
    if not image:
        raise VitrailError(f"{printable(path)}, line {line}: the image cell is empty")
    if labelled and not label:
        raise VitrailError(f"{printable(path)}, line {line}: {printable(image)} has no label")
    if captioned and not caption:
        raise VitrailError(f"{printable(path)}, line {line}: {printable(image)} has no caption")
    if "split" in columns and part not in _PARTS:
        raise VitrailError(f"{printable(path)}, line {line}: split is {part!r}; known are {', '.join(_PARTS)}")
    probabilities: dict[str, float] = {}
    for name in columns if labelled else ():
        if name.startswith(_PROBABILITY):
            value = cell(name)
            try:
                probabilities[name.removeprefix(_PROBABILITY)] = float(value)
            except ValueError:
                raise VitrailError(f"{printable(path)}, line {line}: {name} is {value!r}, no number") from None
    return _Row(line, os.fspath(path.parent / image), label, caption, _PARTS.get(part, ""), probabilities)


def _probabilities(path: Path, rows: list[_Row], classes: tuple[str, ...]) -> NDArray[np.float32]:
    if differing := sorted(set(classes) ^ set(rows[0].probabilities)):
        raise VitrailError(
            f"{printable(path)}: there must be a column {_PROBABILITY}CLASS for every class of the label column and no "
            f"other; not so for {', '.join(differing)}"
        )
    table = np.array([[row.probabilities[name] for name in classes] for row in rows], dtype=np.float32)
    # Written so that a NaN is refused too.
    wrong = np.flatnonzero(~((table >= 0).all(axis=1) & (np.abs(table.sum(axis=1) - 1) < 0.01)))
    if wrong.size:
        line = rows[int(wrong[0])].line
        raise VitrailError(f"{printable(path)}, line {line}: the probabilities must be 0 or more and add up to 1")
    return table / table.sum(axis=1, keepdims=True)


def _check_unique(path: Path, rows: list[_Row]) -> None:
    seen: dict[str, _Row] = {}
    for row in rows:
        first = seen.setdefault(_place(row), row)
        if (first.label, first.part) != (row.label, row.part):
            what = "with two labels" if first.label != row.label else "in both splits"
            raise VitrailError(
                f"{printable(path)}: lines {first.line} and {row.line} list {printable(row.path)} {what}"
            )


def _picture_ids(rows: list[_Row]) -> NDArray[np.int64] | None:
    """For each row the number of the first one that lists its picture; None where no picture is listed twice."""
    first: dict[str, int] = {}
    numbers = [first.setdefault(_place(row), number) for number, row in enumerate(rows)]
    return np.array(numbers, dtype=np.int64) if len(first) < len(rows) else None


def _place(row: _Row) -> str:
    """The path in one way of writing it: relative and absolute ones are compared, ``a/../b`` is ``b``."""
    # Path.resolve would ask the disk about each of what may be a million files.
    return os.path.abspath(row.path)  # noqa: PTH100


def _check_files(path: Path, rows: list[_Row]) -> None:
    lost = [row for row in rows if not Path(row.path).is_file()]
    if lost:
        shown = "; ".join(f"line {row.line}: {printable(row.path)}" for row in lost[:10])
        more = f"; and {len(lost) - 10} more" if len(lost) > 10 else ""
        raise VitrailError(f"{printable(path)}: {len(lost)} of {len(rows)} pictures do not exist: {shown}{more}")


def _sorted_labels(labels: set[str]) -> tuple[str, ...]:
    whole = all(label.removeprefix("-").isdecimal() for label in labels)
    return tuple(sorted(labels, key=lambda label: (int(label), label)) if whole else sorted(labels))
