"""MAE's own recipe: ViT-B/16 on a large folder of pictures, for GPUs (He et al. 2022, appendix A.1, table 8).

Command: ``torchrun --nproc-per-node 8 -m vitrail pretrain PICTURES --recipe mae_base``
Cost: that of 800 epochs; the paper's ViT-L took 15.4 hours for them on 128 TPU-v3 cores (table 2; 31 for
1,600). Not measured here.
Expected: 83.6 % on ImageNet-1k after 1,600 epochs and fine-tuning, in the paper; not repeated here.
"""

from __future__ import annotations

from vitrail.jobs.pretrain_config import PretrainConfig


def config() -> PretrainConfig:
    """Batch 4,096 at 1.5e-4 × 4,096 / 256, 40 epochs of warm-up, 800 epochs, crops of 20 % and more, mirror images."""
    return PretrainConfig(
        data="",
        method="mae",
        model="vit_base_patch16_224",
        epochs=800,
        batch_size=4096,
        lr=1.5e-4 * 4096 / 256,
        warmup_fraction=40 / 800,
        weight_decay=0.05,
        betas=(0.9, 0.95),
        crop_scale=(0.2, 1.0),
        workers=12,
        eval_every=20,
    )
