"""Rows into a file and out of it again: CSV, JSON lines or Parquet, whichever its name asks for; part by part."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np

from vitrail.contracts import VitrailError
from vitrail.data import printable
from vitrail.durable import write_result

Row = dict[str, Any]
"""Values by column: text, numbers, lists of one length, or vectors (numpy, one dimension). Pictures are named by
:func:`picture_name`."""

Parts = Iterable[Sequence[Row]]
"""Rows some at a time, the same in the same order whenever it is gone through."""


def picture_name(path: str) -> str:
    """A picture's path as every kind of table holds it: as it is, so that it can be joined on and opened.

    Tables are UTF-8, which not every file name is: one that is not stands as messages show it (``\\udcff`` for the byte
    FF).
    """
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return printable(path)
    return path


def paths_of(rows: Iterable[Row], paths: Iterable[str]) -> Iterator[tuple[Row, str]]:
    """Every row with the path of its picture, which its name may only stand for.

    Args:
        rows: one a picture, in the order of the pictures; some may have none.
        paths: of all pictures.
    """
    rest = iter(paths)
    for row in rows:
        yield row, next(path for path in rest if picture_name(path) == row["name"])


class TableFormat(ABC):
    """How rows stand in a file."""

    @abstractmethod
    def write(self, parts: Parts, path: Path) -> None:
        """All rows; no more than one part is in memory at a time."""

    @abstractmethod
    def read(self, path: Path, sample: Row) -> Iterator[Row]:
        """The rows of a file, one after the other, vectors as lists.

        Args:
            path: of the file.
            sample: a row of it, as it was before it was written: it knows the columns' types.
        """


class Csv(TableFormat):
    """Lists and vectors become one column per number."""

    def write(self, parts: Parts, path: Path) -> None:
        """As :class:`TableFormat`."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            header: list[str] = []
            for row in (row for part in parts for row in part):
                flat = _flatten(row)
                if not header:
                    header = list(flat)
                    writer.writerow(header)
                writer.writerow([flat[name] for name in header])

    def read(self, path: Path, sample: Row) -> Iterator[Row]:
        """As :class:`TableFormat`."""
        types = [str if value is None else type(value) for value in _flatten(sample).values()]
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            next(lines, None)
            for line in lines:
                values = iter([kind(text) for kind, text in zip(types, line, strict=True)])
                yield {
                    name: list(islice(values, len(value))) if isinstance(value, list | np.ndarray) else next(values)
                    for name, value in sample.items()
                }


def _flatten(row: Row) -> Row:
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, list | np.ndarray):
            numbers = value.tolist() if isinstance(value, np.ndarray) else value
            flat.update({f"{name}_{i}": number for i, number in enumerate(numbers)})
        else:
            flat[name] = value
    return flat


class JsonLines(TableFormat):
    """An object a line."""

    def write(self, parts: Parts, path: Path) -> None:
        """As :class:`TableFormat`."""
        with path.open("w", encoding="utf-8") as file:
            for part in parts:
                file.writelines(json.dumps(row, ensure_ascii=False, default=np.ndarray.tolist) + "\n" for row in part)

    def read(self, path: Path, sample: Row) -> Iterator[Row]:
        """As :class:`TableFormat`."""
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


class Parquet(TableFormat):
    """A row group a part; vectors are lists of their own numbers, float32 as they come."""

    def write(self, parts: Parts, path: Path) -> None:
        """As :class:`TableFormat`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        # A column of whole numbers, or of nothing, may turn out to hold fractions in a later part.
        schemas = [_arrow(part).schema for part in parts if part]
        schema = pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])
        with pq.ParquetWriter(path, schema) as writer:
            for part in parts:
                if part:
                    writer.write_table(_arrow(part).cast(schema))

    def read(self, path: Path, sample: Row) -> Iterator[Row]:
        """As :class:`TableFormat`."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()


def _arrow(part: Sequence[Row]) -> Any:
    import pyarrow as pa

    columns = {}
    for name, first in part[0].items():
        values = [row[name] for row in part]
        if isinstance(first, np.ndarray):
            offsets = np.arange(len(part) + 1, dtype=np.int32) * len(first)
            columns[name] = pa.ListArray.from_arrays(offsets, np.concatenate(values))
        else:
            columns[name] = pa.array(values)
    return pa.table(columns)


FORMATS: dict[str, TableFormat] = {".csv": Csv(), ".jsonl": JsonLines(), ".parquet": Parquet()}


def check_table_name(path: Path) -> None:
    """Refuse a file that cannot be written, before any work is done for it.

    Raises:
        VitrailError: its ending names no known format, the format's package is not installed, or a folder is there.
    """
    if path.suffix not in FORMATS:
        raise VitrailError(f"{path}: the file's ending must be one of {', '.join(FORMATS)}")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise VitrailError(f"{path}: Parquet needs pyarrow: pip install 'vitrail[scale]', or ask for .csv or .jsonl")
    if path.is_dir():
        raise VitrailError(f"{path}: is a folder; give the name of a file with --out")


class Table(Sequence[Row]):
    """Rows that lie in a file. Going through them reads it anew; what has been read is not kept.

    Equal to any sequence of the same rows. Vectors come back as lists. A row by its number is found by reading up to
    it: for anything but a look at a few, go through all, or open the file with pandas or pyarrow.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, sample: Row, length: int) -> None:
        self.path = path
        self._sample = sample
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Row]:
        return FORMATS[self.path.suffix].read(self.path, self._sample) if self._length else iter(())

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        places = range(self._length)[index]
        if isinstance(places, range):
            wanted = set(places)
            found = {place: row for place, row in enumerate(self) if place in wanted}
            return [found[place] for place in places]
        return next(islice(self, places, None))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of any sequence that is compared by what it holds


def write_table(parts: Parts, path: Path) -> Table:
    """All rows into a file, whole or not at all.

    Args:
        parts: the rows; gone through more than once.
        path: ``.csv``, ``.jsonl`` or ``.parquet``.

    Raises:
        VitrailError: it cannot be written.
    """
    check_table_name(path)
    write_result(path, lambda temporary: FORMATS[path.suffix].write(parts, temporary))
    sample: Row = {}
    length = 0
    for part in parts:
        sample = sample or (part[0] if part else {})
        length += len(part)
    return Table(path, sample, length)
