"""fp32 or bf16: asked of the hardware and timed, not guessed from its name."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

# Below this gain the rounding of bf16 is not worth having: casts and the parts that stay fp32 eat a small one.
_WORTHWHILE_SPEEDUP = 1.3
_PRODUCT_SIZE = {"cuda": 4096, "mps": 1024, "cpu": 384}
_REPEATS = 4


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

    "auto" takes bf16 where a square matrix product in it is at least 1.3 times as fast as in fp32, timed once.
    """
    if requested != "auto":
        return Precision(requested, f"{requested}: as asked")
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision("fp32", f"fp32: {torch.cuda.get_device_name(device)} has no bf16 units")
    try:
        slow = time_product(device, torch.float32)
        fast = time_product(device, torch.bfloat16)
    except RuntimeError as error:
        return Precision("fp32", f"fp32: a bf16 product fails on {device} ({error})")
    measured = f"a {_PRODUCT_SIZE[device.type]}² product takes {fast * 1e3:.2f} ms in bf16, {slow * 1e3:.2f} ms in fp32"
    if slow >= _WORTHWHILE_SPEEDUP * fast:
        return Precision("bf16", f"bf16: {measured}")
    return Precision("fp32", f"fp32: {measured}")


def time_product(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one square matrix product: the best of a few, after one that is not counted."""
    size = _PRODUCT_SIZE[device.type]
    left = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for attempt in range(1 + _REPEATS):
        start = time.perf_counter()
        # Reading one number back waits for the device, whichever it is.
        (left @ left)[0, 0].item()
        if attempt:
            best = min(best, time.perf_counter() - start)
    return best
