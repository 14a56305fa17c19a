"""Two processes under torchrun train what one process trains."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.jobs.tiny import tiny_config
from vitrail.jobs import train
from vitrail.jobs.settings import write_config


def test_the_same_command_under_torchrun_ends_with_the_same_weights_to_rounding(photos: Path, tmp_path: Path):
    config = tiny_config(
        photos, tmp_path / "one", epochs=2, batch_size=6, drop_path=0.0, hflip=0.5, report=False, ema_decay=0.5
    )
    train(config)
    write_config("train", config, tmp_path / "config.yaml")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vitrail", "train"]
    done = subprocess.run(
        [sys.executable, *command, "--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-4, rtol=2e-3)
