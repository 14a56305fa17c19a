"""fp32 or bf16: asked of the hardware and timed, not guessed from its name."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

from vitrail.machine import bf16_pays


@dataclass(frozen=True)
class Precision:
    """The number format of the forward pass, and why.

    Attributes:
        name: "fp32", or "bf16" for ``torch.autocast`` with bfloat16 (weights and optimiser stay fp32).
        reason: one line for the log.
    """

    name: Literal["fp32", "bf16"]
    reason: str

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context in which forward passes run."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.name == "bf16")


def choose_precision(requested: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """The precision to train in on ``device``.

    "auto" takes bf16 where a square matrix product in it is at least 1.3 times as fast as in fp32, timed once on each
    machine.
    """
    if requested != "auto":
        return Precision(requested, f"{requested}: as asked")
    pays, reason = bf16_pays(device)
    name = "bf16" if pays else "fp32"
    return Precision(name, f"{name}: {reason}")
