"""A pretraining of a second or two on digits, in a module that processes of their own can import."""

from pathlib import Path

from vitrail.jobs.pretrain_config import PretrainConfig


def pretrain_config(out: Path, data: str = "digits", **changes: object) -> PretrainConfig:
    """MAE on pictures of 8 by 8 pixels with 16 patches."""
    values = {
        "data": data,
        "method": "mae",
        "method_options": ("decoder_embed_dim=16", "decoder_depth=1", "decoder_num_heads=2"),
        "image_size": 8,
        "patch_size": 2,
        "model_options": ("in_channels=1", "depth=2", "embed_dim=32", "num_heads=2"),
        "epochs": 4,
        "batch_size": 64,
        "lr": 3e-3,
        "crop": 1.0,
        "crop_scale": None,
        "hflip": 0.0,
        "eval_every": 2,
        "measured": 300,
        "workers": 0,
        "device": "cpu",
        "precision": "fp32",
        "out": out,
    }
    return PretrainConfig(**{**values, **changes})


def run(out: str, checkpoint_every_s: float = 0.05) -> None:
    """One start of it, in a process of its own."""
    import torch

    from vitrail.jobs.pretrain import pretrain

    torch.set_num_threads(1)
    pretrain(pretrain_config(Path(out), checkpoint_every_s=checkpoint_every_s, report=False, workers=1, hflip=0.5))
