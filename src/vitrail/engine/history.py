"""The numbers of a run: running means between two rows, and the table ``metrics.csv``."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitrail.contracts import VitrailError
from vitrail.durable import sync, write_durably

from .files import METRICS_BEFORE


class Meter:
    """Means of named numbers since the last :meth:`clear`, and the rate of pictures.

    The sums can be stored and put back, so that a resumed run writes the same rows as an undisturbed one.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start a new window."""
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._images = 0
        self._since = time.perf_counter()

    def add(self, values: Mapping[str, float], images: int) -> None:
        """Count one step in."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._images += images

    def means(self) -> dict[str, float]:
        """The means of the window."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    def images_per_s(self) -> float:
        """Pictures per second of wall-clock since the window began (or the run was resumed)."""
        return self._images / max(1e-9, time.perf_counter() - self._since)

    def dump(self) -> dict[str, Any]:
        """The window as JSON can hold it."""
        return {"sums": self._sums, "counts": self._counts}

    def load(self, stored: Mapping[str, Any]) -> None:
        """Put the window of :meth:`dump` back."""
        self.clear()
        self._sums = dict(stored["sums"])
        self._counts = dict(stored["counts"])


class MetricsTable:
    """``metrics.csv``: one row at a time, never a torn one, columns added as they turn up.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        self.rows = 0

    def keep(self, rows: int) -> None:
        """Begin with the first ``rows`` rows of the file; the others belong to steps that will be taken again.

        With none to keep, a file that is there (of an attempt without a checkpoint) moves to ``metrics.previous.csv``.
        """
        self.columns, found = _read(self.path)
        self.rows = min(rows, len(found))
        if self.rows:
            self._rewrite(found[: self.rows])
        else:
            self.columns = []
            if self.path.exists():
                with self._explained():
                    self.path.replace(self.path.with_name(METRICS_BEFORE))

    def append(self, row: Mapping[str, float | int]) -> None:
        """Add one row.

        Raises:
            VitrailError: the file cannot be written.
        """
        text = {name: value if isinstance(value, int) else f"{value:.8g}" for name, value in row.items()}
        new = [name for name in row if name not in self.columns]
        if new:
            earlier = _read(self.path)[1][: self.rows] if self.rows else []
            self.columns += new
            self._rewrite([*earlier, text])
        else:
            self._append_line(_lines(self.columns, [text], header=False))
        self.rows += 1

    def sync(self) -> int:
        """Force the rows to the disk, before a checkpoint counts on them; returns how many there are.

        Raises:
            VitrailError: they cannot be.
        """
        if self.rows:
            with self._explained():
                sync(self.path)
        return self.rows

    def _append_line(self, line: str) -> None:
        with self._explained(), self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(line)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VitrailError(
                f"cannot write {self.path}: {error}. Make room, then run the same command again"
            ) from error

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        content = _lines(self.columns, rows, header=True).encode()
        write_durably(self.path, lambda path: path.write_bytes(content))


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    return list(reader.fieldnames or []), rows


def _lines(columns: list[str], rows: list[dict[str, Any]], header: bool) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n", extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
