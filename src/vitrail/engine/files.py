"""The names of the files that a run leaves in its folder, for those who look there or clear it."""

from __future__ import annotations

CHECKPOINT = "checkpoint.safetensors"
"""The newest checkpoint."""
PREVIOUS = "checkpoint.previous.safetensors"
"""The one before it."""
DAMAGED = "checkpoint.damaged.safetensors"
"""A newest checkpoint that could not be read, set aside."""
METRICS_TABLE = "metrics.csv"
"""The table of numbers."""
METRICS_BEFORE = "metrics.previous.csv"
"""The table of an attempt that left no checkpoint."""
NONFINITE = "nonfinite.json"
"""An account of the step that was refused."""

LOCK = ".vitrail-training"
"""Held while a training goes on, and there no longer; also a killed one leaves it, held by nobody. Not to be removed
by others: who holds it could not tell."""

RUN_FILES = (CHECKPOINT, PREVIOUS, DAMAGED, METRICS_TABLE, METRICS_BEFORE, NONFINITE)
"""All files that the engine may leave in a run's folder, to be kept or cleared. TensorBoard's events have a folder of
their own."""
