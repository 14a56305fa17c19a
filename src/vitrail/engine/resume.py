"""Where a run stands, and whether it may go on from where another one stood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vitrail.contracts import EpochLoader, Progress, VitrailError

from .config import EngineConfig
from .distributed import World

# With this entry in the caller's fingerprint, the engine's own measures of the batch need not be equal one by one.
GLOBAL_BATCH = "global_batch"
_BATCH_PARTS = ("world_size", "accumulate")


@dataclass(frozen=True)
class Plan:
    """The lengths of a run, in optimiser steps.

    Attributes:
        steps_per_epoch: optimiser steps in an epoch; the last has fewer batches where the loader's do not divide.
        epochs: epochs.
        accumulate: batches a step, on each rank.
        batches_per_epoch: batches an epoch, on each rank.
    """

    steps_per_epoch: int
    epochs: int
    accumulate: int
    batches_per_epoch: int

    @classmethod
    def of(cls, loader: EpochLoader, config: EngineConfig) -> Plan:
        """The plan of ``config`` on ``loader``."""
        batches = len(loader)
        return cls(math.ceil(batches / config.accumulate), config.epochs, config.accumulate, batches)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    def batches_done(self, epoch: int, step: int) -> int:
        """Batches of ``epoch`` that are behind after ``step`` steps of the run."""
        return min((step - epoch * self.steps_per_epoch) * self.accumulate, self.batches_per_epoch)

    def progress(self, epoch: int, step: int) -> Progress:
        """The same as the methods see it."""
        return Progress(step, self.total_steps, epoch, self.epochs)


def run_fingerprint(config: EngineConfig, plan: Plan, world: World, caller: Mapping[str, str]) -> dict[str, str]:
    """All that must be equal for a run to be continued, as text."""
    return {
        **config.fingerprint(),
        "world_size": str(world.size),
        "steps_per_epoch": str(plan.steps_per_epoch),
        **{name: str(value) for name, value in caller.items()},
    }


def another_division(stored: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """What to say of a run that goes on with its batches divided otherwise; None where they are not.

    The pictures of every step stay the same (:data:`GLOBAL_BATCH`); what happens within a part of a batch does not.
    """
    if all(stored.get(name) == now.get(name) for name in _BATCH_PARTS):
        return None
    before, after = (f"{run.get('world_size')} processes x accumulate {run.get('accumulate')}" for run in (stored, now))
    return (
        f"a batch is divided by {after}, in the run so far it was by {before}. The pictures of a step stay the same; "
        "what is drawn or compared within a part (mixing, dropout, batch norm, contrastive losses) differs"
    )


def check_same_run(stored: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
    """Refuse to continue another run.

    Raises:
        VitrailError: lists every entry that differs, old and new.
    """
    free = _BATCH_PARTS if GLOBAL_BATCH in stored and GLOBAL_BATCH in now else ()
    names = [*stored, *(name for name in now if name not in stored)]
    differing = [
        f"{name}: was {stored.get(name, 'not set')}, is {now.get(name, 'not set')}"
        for name in names
        if name not in free and stored.get(name) != now.get(name)
    ]
    if differing:
        raise VitrailError(
            f"the run in {where} is another one: {'; '.join(differing)}. Go on with the old values, or choose another "
            "output folder"
        )
