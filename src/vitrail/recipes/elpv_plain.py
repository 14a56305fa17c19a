"""The plain fine-tuning recipe on solar cells, to compare with ``elpv`` at the same cost.

Command: ``vitrail train --recipe elpv_plain``
Cost: that of ``elpv``: all 256 patches at 224 pixels are what half of the 484 at 308 are, and the epochs are as many.
Expected: 78.35 and 77.90 % (seeds 0 and 1) of the 656 held-out photographs, below the frozen probe (87.65 %).

AdamW at 2e-4 for all layers alike, cosine to zero, no warm-up, no augmentation, no moving average: what the tutorials
of the large libraries do.
"""

from __future__ import annotations

from dataclasses import replace

from vitrail.jobs.train_config import TrainConfig
from vitrail.recipes import elpv


def config() -> TrainConfig:
    """The same pictures, model, epochs and batches as ``elpv``."""
    return replace(
        elpv.config(),
        image_size=224,
        model_options=(),
        soft_labels=False,
        lr=2e-4,
        min_lr=0.0,
        warmup_fraction=0.0,
        weight_decay=0.0,
        layer_decay=1.0,
        ema_decay=None,
        hflip=0.0,
        vflip=0.0,
        quarter_turns=False,
    )
