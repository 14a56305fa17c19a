"""The learning rate over a run: linear warm-up, then half a cosine."""

from __future__ import annotations

import math


def warmup_steps(total_steps: int, fraction: float) -> int:
    """How many of ``total_steps`` are warm-up: the nearest whole number to ``fraction`` of them."""
    return round(total_steps * fraction)


def schedule_factor(step: int, total_steps: int, warmup: int, start: float, end: float) -> float:
    """Multiple of the peak learning rate that holds during ``step``.

    For the first ``warmup`` steps the factor climbs on a line from ``start`` (at step 0) to 1 (at step ``warmup``);
    then it falls as ``end + (1 - end) * (1 + cos(pi * t)) / 2``, with ``t`` from 0 at step ``warmup`` to 1 at step
    ``total_steps`` (Loshchilov and Hutter, SGDR, equation 5, one period; warm-up as in Goyal et al. 2017, section
    2.2). The last step that is taken, ``total_steps - 1``, is therefore just above ``end``.

    The engine multiplies every parameter group's own peak by this one factor, so under layer-wise decay a group's
    start and end shrink in the same proportion as its peak, and all groups keep their ratios throughout.

    Args:
        step: optimiser steps already taken, 0 … ``total_steps``.
        total_steps: optimiser steps of the whole run.
        warmup: steps of warm-up, fewer than ``total_steps``.
        start: ``warmup_lr / lr``.
        end: ``min_lr / lr``.
    """
    if step < warmup:
        return start + (1.0 - start) * step / warmup
    done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * done))
