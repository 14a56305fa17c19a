"""Rounds in which every configuration has its turn, so that a machine's drift meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

TURN = 0.5
"""Seconds of a turn, and at least one call."""


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median over rounds of the mean seconds of a call, one after the other in every round.

    The first call of a turn does not count: threads of whoever was before may still be spinning.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            seconds[name].append(_turn(run))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _turn(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    calls = 0
    while not calls or time.perf_counter() - started < TURN:
        run()
        calls += 1
    return (time.perf_counter() - started) / calls
