"""A run folder: the config that repeats it, its figures, and what it ran on."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import vitrail
from vitrail.contracts import VitrailError
from vitrail.jobs.settings import Settings, write_config

CONFIG, METRICS, MODEL, PICTURES = "config.yaml", "metrics.json", "model", "pictures"


def open_run(verb: str, config: Settings, out: Path) -> Path:
    """Make the folder and write its config.

    Raises:
        VitrailError: the folder cannot be made or written, or is a file.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_config(verb, config, out / CONFIG)
    except OSError as error:
        raise VitrailError(
            f"{out}: the run folder cannot be written ({error.strerror}); give another with --out"
        ) from error
    return out


def write_metrics(out: Path, values: Mapping[str, Any]) -> None:
    """``metrics.json``, whole or not at all."""
    temporary = out / f".{METRICS}.{os.getpid()}"
    temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(out / METRICS)


def environment(device: torch.device, precision_reason: str) -> dict[str, str]:
    """What a reader needs to judge the figures: versions and machine."""
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return {
        "vitrail": vitrail.__version__,
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{gpu}",
        "device": str(device),
        "precision": precision_reason,
        "threads": str(torch.get_num_threads()),
    }


def command_line(verb: str, out: Path) -> str:
    """The exact command of this process, or the one that repeats its config when Python called the job."""
    if Path(sys.argv[0]).stem in ("vitrail", "__main__"):
        return shlex.join(["vitrail", *sys.argv[1:]])
    return shlex.join(["vitrail", verb, "--config", str(out / CONFIG)])
