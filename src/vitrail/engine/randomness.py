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


def seed_everything(seed: int) -> None:
    """Seed torch (every device) and ``random``: the two sources a method may draw from."""
    torch.manual_seed(seed)
    random.seed(seed)
