"""Rows into a file: CSV, JSON lines or Parquet, whichever its name asks for."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vitrail.contracts import VitrailError

Row = dict[str, Any]


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    """Lists (feature vectors) become one column per number."""
    flat = [_flatten(row) for row in rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(flat[0]) if flat else [])
        writer.writeheader()
        writer.writerows(flat)


def _flatten(row: Row) -> Row:
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, list):
            flat.update({f"{name}_{i}": number for i, number in enumerate(value)})
        else:
            flat[name] = value
    return flat


def _write_jsonl(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_parquet(rows: Sequence[Row], path: Path) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise VitrailError(
            f"{path}: Parquet needs pyarrow: pip install 'vitrail[scale]', or ask for .csv or .jsonl"
        ) from error
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


WRITERS: dict[str, Callable[[Sequence[Row], Path], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}


def check_table_name(path: Path) -> None:
    """Refuse a file name whose ending names no known format."""
    if path.suffix not in WRITERS:
        raise VitrailError(f"{path}: the file's ending must be one of {', '.join(WRITERS)}")


def write_table(rows: Sequence[Row], path: Path) -> None:
    """All rows, whole or not at all."""
    check_table_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    WRITERS[path.suffix](rows, temporary)
    temporary.replace(path)
