"""Contestants set beside each other: one process each, turns interleaved, medians."""

from vitrail.speed.bench.comparison import Comparison, Missing, Row, compare
from vitrail.speed.bench.machine import machine
from vitrail.speed.bench.rounds import Finished, Report, answer, interleave
from vitrail.speed.bench.show import draw, footnotes, table
from vitrail.speed.bench.work import Make, Work

__all__ = [
    "Comparison",
    "Finished",
    "Make",
    "Missing",
    "Report",
    "Row",
    "Work",
    "answer",
    "compare",
    "draw",
    "footnotes",
    "interleave",
    "machine",
    "table",
]
