"""A verb in two processes."""

import os
import subprocess
import sys
from pathlib import Path

from vitrail.jobs.settings import Settings, write_config


def in_two_processes(verb: str, config: Settings, folder: Path, *more: str) -> Path:
    """What the verb leaves behind when torchrun starts it twice with the same config; everything is in ``folder``.

    Args:
        verb: of the command line.
        config: its options.
        folder: where the config is written, and the results go to (``two``).
        more: further words of the command line.
    """
    write_config(verb, config, folder / "config.yaml")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vitrail", verb]
    done = subprocess.run(
        [sys.executable, *command, "--config", str(folder / "config.yaml"), "--out", str(folder / "two"), *more],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "two"
