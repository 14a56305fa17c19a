"""Ways of computing that agree to rounding but not to the bit: a run keeps to the one that it began with."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch

from .distributed import World
from .log import Display

USUAL = "torch"
"""The name of torch's own way, which can always be had."""


class Ways(Protocol):
    """The ways that a caller of :func:`vitrail.engine.fit` has for what it computes, each with a name.

    Which of them is quickest is a matter of timing, and a timing may come out differently when a run goes on. So the
    name is stored with the checkpoint, as the precision is.
    """

    def choose(self, device: torch.device, precision: str) -> tuple[str, str]:
        """The way to begin a run with, asked of one process for all, and a line about it (or nothing).

        Args:
            device: where the run is.
            precision: "fp32" or "bf16", of the run.
        """
        ...

    def lacking(self, name: str, device: torch.device) -> str | None:
        """Why this process cannot compute in that way; None where it can. Never asked of :data:`USUAL`."""
        ...

    def use(self, name: str) -> AbstractContextManager[object]:
        """The block in which all is computed in that way. Never asked of :data:`USUAL`."""
        ...


class TorchAlone:
    """No way but torch's own."""

    def choose(self, device: torch.device, precision: str) -> tuple[str, str]:
        """Torch's own, without a word."""
        return USUAL, ""

    def lacking(self, name: str, device: torch.device) -> str | None:
        """There is no other."""
        return "the caller has no such way"

    def use(self, name: str) -> AbstractContextManager[object]:
        """Nothing to prepare."""
        return nullcontext()


def agree_on_way(
    ways: Ways, stored: str | None, device: torch.device, precision: str, world: World, display: Display
) -> str:
    """The name of the way that all ranks compute in: the stored one, or what rank 0 chooses.

    Where a rank cannot, all compute as torch does, with a warning.

    Args:
        ways: the caller's.
        stored: that of the run so far; None for a new run.
        device: where this rank computes.
        precision: "fp32" or "bf16".
        world: the ranks.
        display: where a line is shown.
    """
    name, said = world.on_main(lambda: ways.choose(device, precision)) if stored is None else (stored, "")
    if name == USUAL:
        return USUAL
    reasons = [reason for reason in world.gather(ways.lacking(name, device)) if reason is not None]
    if not reasons:
        display.message(said or f"{name}: as in the run so far")
        return name
    instead = "computed as torch does"
    if stored is not None:
        instead = "the run so far was computed so. It goes on equal to an undisturbed one to rounding, not bit for bit"
    display.warning(f"{name} cannot be had here ({reasons[0]}); {instead}")
    return USUAL


def use_way(ways: Ways, name: str) -> AbstractContextManager[object]:
    """The block in which all is computed in the way of that name."""
    return nullcontext() if name == USUAL else ways.use(name)
