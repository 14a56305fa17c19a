"""From seconds to figures: medians, ratios within a round, errors."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vitrail.speed.bench.rounds import Finished, Report
from vitrail.speed.bench.work import Answer


@dataclass(frozen=True)
class Row:
    """One contestant.

    Attributes:
        name: of it.
        seconds: of one call, of each round.
        median: of them.
        pictures_per_s: by the median.
        slower: how many times as long as the first contestant a picture takes: the median of the ratios within a round.
        error: relative L2 distance of what comes out from the float32 answer; None where nothing is compared.
        memory: MiB that the work held at most beyond model and inputs; None where the system does not tell.
        notes: number format and kernels.
    """

    name: str
    seconds: tuple[float, ...]
    median: float
    pictures_per_s: float
    slower: float
    error: float | None
    memory: float | None
    notes: str


@dataclass(frozen=True)
class Missing:
    """A contestant that is not in the table, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Contestants at one piece of work.

    Attributes:
        title: the work.
        rows: those that did it; the first one is what the others are compared with.
        missing: those that did not.
        versions: of all libraries that took part.
        threads: of each process.
        machine: where.
        date: when, year-month-day.
        command: that measures it again.
    """

    title: str
    rows: tuple[Row, ...]
    missing: tuple[Missing, ...]
    versions: Mapping[str, str]
    threads: int
    machine: str
    date: str
    command: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Comparison:
        """The inverse of :meth:`to_dict`."""
        rows = tuple(Row(**{**row, "seconds": tuple(row["seconds"])}) for row in values["rows"])
        missing = tuple(Missing(**one) for one in values["missing"])
        return cls(**{**values, "rows": rows, "missing": missing})


def compare(report: Report, truth: Answer | None) -> tuple[Row, ...]:
    """The figures of all who finished, in their order.

    Args:
        report: of :func:`~vitrail.speed.bench.interleave`.
        truth: what should come out, of which ``error`` is told.
    """
    first = next(iter(report.finished.values()), None)
    return tuple(_row(name, one, first or one, truth) for name, one in report.finished.items())


def relative_error(answer: Answer, truth: Answer) -> float:
    """‖answer - truth‖ / ‖truth‖, in float64."""
    wanted = truth.astype(np.float64)
    return float(np.linalg.norm(answer.astype(np.float64) - wanted) / np.linalg.norm(wanted))


def _row(name: str, one: Finished, first: Finished, truth: Answer | None) -> Row:
    median = statistics.median(one.seconds)
    error = None if truth is None or one.answer is None else relative_error(one.answer, truth)
    return Row(
        name=name,
        seconds=one.seconds,
        median=median,
        pictures_per_s=one.pictures / median,
        slower=statistics.median(_ratios(_per_picture(one), _per_picture(first))),
        error=error,
        memory=one.memory,
        notes=one.notes,
    )


def _per_picture(one: Finished) -> list[float]:
    return [seconds / one.pictures for seconds in one.seconds]


def _ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    return [this / that for this, that in zip(these, those, strict=True)]
