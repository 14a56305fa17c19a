"""Small things for the jobs to work on: pictures that differ by colour, and a model that trains in a second."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.jobs.train_config import TrainConfig

COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 50, 40)}
TINY = ("depth=2", "embed_dim=32", "num_heads=2")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of twelve noisy pictures each, of odd and differing sizes."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(12):
            size = (21 + number, 34 - number, 3)
            pixels = np.clip(random.normal(colour, 35, size), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02}.png")
    return root


def tiny_config(photos: Path, out: Path, **changes: object) -> TrainConfig:
    """A training of a few seconds that reaches full accuracy."""
    values = {
        "data": str(photos),
        "model": "vit_tiny_patch16_224",
        "pretrained": False,
        "image_size": 16,
        "patch_size": 8,
        "model_options": TINY,
        "epochs": 6,
        "batch_size": 9,
        "lr": 3e-3,
        "crop": 1.0,
        "crop_scale": None,
        "randaugment": None,
        "erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "layer_decay": 1.0,
        "ema_decay": 0.5,
        "workers": 0,
        "device": "cpu",
        "precision": "fp32",
        "out": out,
    }
    return TrainConfig(**{**values, **changes})


@pytest.fixture(scope="session")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    from vitrail.jobs.train import train

    out = tmp_path_factory.mktemp("runs") / "trained"
    train(tiny_config(photos, out))
    return out
