"""MAE on photographs of solar cells, from MAE's public ViT-B/16: adapt the encoder to one's own pictures.

Command: ``vitrail pretrain --recipe elpv_mae --online`` (the weights are CC-BY-NC-4.0), then ``vitrail probe elpv …``
Cost: not measured yet; about 2 CPU-hours by ``vitrail plan``'s figures.
Expected: not measured yet.
"""

from __future__ import annotations

from vitrail.jobs.pretrain_config import PretrainConfig


def config() -> PretrainConfig:
    """50 epochs over 1,968 whole cells, mirrored and upside down; the decoder starts afresh."""
    return PretrainConfig(
        data="elpv",
        method="mae",
        model="vit_base_patch16_224.mae",
        pretrained=True,
        method_options=("decoder_embed_dim=256", "decoder_depth=4", "decoder_num_heads=8"),
        crop=1.0,
        crop_scale=(0.5, 1.0),
        vflip=0.5,
        epochs=50,
        batch_size=64,
        lr=1.5e-4,
        warmup_fraction=0.1,
        eval_every=5,
    )
