"""The plain fine-tuning recipe on solar cells, to compare with ``elpv_long`` at the same cost.

Command: ``vitrail train --recipe elpv_plain --seed 0``
Cost: that of ``elpv_long``, to within a few per cent.
Expected: about 75 % after three of its epochs (seed 0); not measured to its end.

AdamW at 2e-4 for all layers alike, cosine to zero, no warm-up, no augmentation, no moving average: what the tutorials
of the large libraries do.
"""

from __future__ import annotations

from dataclasses import replace

from vitrail.jobs.train_config import TrainConfig
from vitrail.recipes import elpv_long


def config() -> TrainConfig:
    """The same pictures, resolution and epochs as ``elpv_long``."""
    return replace(
        elpv_long.config(),
        lr=2e-4,
        min_lr=0.0,
        warmup_fraction=0.0,
        weight_decay=0.0,
        layer_decay=1.0,
        soft_labels=False,
        ema_decay=None,
        drop_path=0.0,
        hflip=0.0,
        vflip=0.0,
        quarter_turns=False,
        smoothing=0.0,
    )
