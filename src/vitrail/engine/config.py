"""What a run of the engine is asked for: one frozen, validated value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

from vitrail.contracts import VitrailError

# Fields that change how a run is watched, stored or placed, but not what it computes: they may differ on resume.
_FREE_ON_RESUME = frozenset(
    {"compile", "device", "checkpoint_every_s", "checkpoint_every_steps", "eval_every", "log_every"}
)


@dataclass(frozen=True)
class EngineConfig:
    """Length, rates and habits of one training run.

    The defaults are the fine-tuning recipe of the ViT/DeiT/MAE line: AdamW, linear warm-up, cosine, weight decay on
    matrices, clipping at 1.

    Attributes:
        epochs: passes over the loader, at least 1.
        lr: peak learning rate, of the parameters that are deepest (head); no scaling by batch size is done.
        min_lr: where the cosine ends.
        warmup_lr: where the linear warm-up starts.
        warmup_fraction: share of all steps spent warming up, 0 to below 1.
        weight_decay: decoupled (AdamW) decay, applied where ``Role.decay`` says so.
        layer_decay: each layer nearer the input learns at this multiple of the next one's rate; 1 turns it off.
        betas: Adam's two averages.
        clip_norm: largest global gradient norm, or None for no clipping.
        ema_decay: decay of the weights' moving average, or None for no average.
        precision: "bf16" (autocast), "fp32", or "auto": whichever the hardware proves faster.
        accumulate: batches whose gradients are added up before one optimiser step.
        compile: run the method through ``torch.compile``.
        seed: of all the randomness inside the model; the loader has its own.
        device: "auto" (CUDA, then Apple's MPS, then CPU) or a torch device such as "cuda:1".
        checkpoint_every_s: seconds between checkpoints, or None.
        checkpoint_every_steps: optimiser steps between checkpoints, or None. One is always written at the end.
        eval_every: epochs between evaluations; the last epoch is always evaluated.
        log_every: optimiser steps between the rows of ``metrics.csv``; each epoch ends with a row.
    """

    epochs: int
    lr: float
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    warmup_fraction: float = 0.05
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0
    ema_decay: float | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    accumulate: int = 1
    compile: bool = False
    seed: int = 0
    device: str = "auto"
    checkpoint_every_s: float | None = 600.0
    checkpoint_every_steps: int | None = None
    eval_every: int = 1
    log_every: int = 50

    def __post_init__(self) -> None:
        """Refuse values that cannot train, each with a message that says what is allowed."""
        for name in ("epochs", "accumulate", "eval_every", "log_every"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("lr", "min_lr", "warmup_lr", "weight_decay"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, name, value, "must be a finite number, not negative")
        _require(self.lr > 0, "lr", self.lr, "must be above 0")
        for name in ("min_lr", "warmup_lr"):
            value = getattr(self, name)
            _require(value <= self.lr, name, value, f"must not exceed lr={self.lr:g}: lower {name} or raise lr")
        _require(0 <= self.warmup_fraction < 1, "warmup_fraction", self.warmup_fraction, "must be in [0, 1)")
        _require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "must be in (0, 1]")
        _require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "betas",
            self.betas,
            "must be two numbers in [0, 1)",
        )
        _require(0 <= self.seed < 2**63, "seed", self.seed, "must be a whole number from 0 to 2**63 - 1")
        _require(self.precision in ("auto", "fp32", "bf16"), "precision", self.precision, "is one of auto, fp32, bf16")
        if self.ema_decay is not None:
            _require(0 < self.ema_decay < 1, "ema_decay", self.ema_decay, "must be in (0, 1), or None for none")
        if self.clip_norm is not None:
            _require(
                0 < self.clip_norm < math.inf, "clip_norm", self.clip_norm, "must be above 0, or None for no clipping"
            )
        for name in ("checkpoint_every_s", "checkpoint_every_steps"):
            value = getattr(self, name)
            if value is not None:
                _require(value > 0, name, value, "must be above 0, or None for never")

    def fingerprint(self) -> dict[str, str]:
        """The fields that a resumed run must share with the run it continues, as text."""
        return {name: str(value) for name, value in asdict(self).items() if name not in _FREE_ON_RESUME}


def _require(condition: bool, name: str, value: object, rule: str) -> None:
    if not condition:
        raise VitrailError(f"{name}={value} {rule}")
