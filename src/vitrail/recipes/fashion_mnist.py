"""A small ViT from scratch on Fashion-MNIST, within 15 minutes on 2 CPU cores.

Command: ``vitrail train --recipe fashion_mnist`` (data: Debian's package dataset-fashion-mnist, or name an IDX folder)
"""

from __future__ import annotations

from vitrail.jobs.train_config import TrainConfig


def config() -> TrainConfig:
    """Patches of 4 pixels, 6 blocks of width 192, light augmentation."""
    return TrainConfig(
        data="fashion-mnist",
        model="vit_tiny_patch16_224",
        pretrained=False,
        image_size=28,
        patch_size=4,
        model_options=("in_channels=1", "depth=6"),
        crop=1.0,
        epochs=10,
        batch_size=128,
        lr=1e-3,
        min_lr=1e-5,
        warmup_fraction=0.05,
        layer_decay=1.0,
        ema_decay=0.998,
        drop_path=0.05,
        crop_scale=(0.6, 1.0),
        randaugment=None,
        erasing=0.1,
        mixup=0.0,
        cutmix=0.0,
        smoothing=0.1,
        eval_every=5,
    )
