"""Two processes under torchrun train what one process trains."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.jobs.tiny import tiny_config
from tests.jobs.torchrun import in_two_processes
from vitrail.jobs.train import train


def test_the_same_command_under_torchrun_ends_with_the_same_weights_to_rounding(photos: Path, tmp_path: Path):
    config = tiny_config(
        photos, tmp_path / "one", epochs=2, batch_size=6, drop_path=0.0, hflip=0.5, report=False, ema_decay=0.5
    )
    train(config)
    in_two_processes("train", config, tmp_path)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-4, rtol=2e-3)
