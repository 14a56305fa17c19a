"""Seeds for the randomness inside the model: a function of place in the run, so that no state needs saving."""

from __future__ import annotations

import hashlib
import random

import torch

# The place of ``after_step`` among the micro-batches of a step: before all of them, and the same on every rank.
AFTER_STEP = -1


def derive_seed(seed: int, step: int, micro: int, rank: int) -> int:
    """A well-mixed 63-bit seed for micro-batch ``micro`` of ``step`` on ``rank``.

    A hash, because neighbouring seeds of the Mersenne Twister give related streams.
    """
    text = f"vitrail {seed} {step} {micro} {rank}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed the sources a method may draw from: torch on the CPU and on ``device``, and ``random``.

    The same as ``torch.manual_seed`` for these; that function also queues the seed for every kind of device that is
    not in use, at half a millisecond a call.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    random.seed(seed)
