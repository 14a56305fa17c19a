"""DeiT's recipe for training a ViT from scratch on a data set of your own (Touvron et al. 2021, table 9).

Without its repeated augmentation, which shows a picture three times in a batch.

Command: ``vitrail train DATA --recipe deit``
Cost: that of 300 epochs over the data; ViT-S/16 on ImageNet-1k took the paper less than three days on four GPUs.
Expected: 79.8 % on ImageNet-1k in the paper, with repeated augmentation; not repeated here.
"""

from __future__ import annotations

from vitrail.jobs.train_config import TrainConfig


def config() -> TrainConfig:
    """ViT-S/16 at 224, 300 epochs, batch 1,024, full augmentation, no layer-wise decay."""
    return TrainConfig(
        data="",
        model="deit_small_patch16_224",
        pretrained=False,
        epochs=300,
        batch_size=1024,
        lr=1e-3,
        min_lr=1e-5,
        warmup_lr=1e-6,
        warmup_fraction=5 / 300,
        weight_decay=0.05,
        layer_decay=1.0,
        clip_norm=None,
        ema_decay=0.99996,
        drop_path=0.1,
        randaugment=(2, 9),
        color_jitter=0.3,
        erasing=0.25,
        mixup=0.8,
        cutmix=1.0,
        smoothing=0.1,
    )
