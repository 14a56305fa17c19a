"""A run folder: the config that repeats it, its figures, and what it ran on."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vitrail.contracts import VitrailError
from vitrail.durable import write_durably
from vitrail.jobs.settings import Settings, make_folder, write_config

CONFIG, METRICS, MODEL, PICTURES, LEFT_OUT = "config.yaml", "metrics.json", "model", "pictures", "left_out.json"
_MADE_BY = re.compile(r"# Repeat with: vitrail (\S+) ")


def open_run(verb: str, config: Settings, out: Path) -> Path:
    """Make the folder and write its config.

    Raises:
        VitrailError: the folder cannot be made or written, is a file, or holds something else than a run of this verb.
    """
    require_own(verb, out)
    make_folder(out)
    write_config(verb, config, out / CONFIG)
    return out


def require_own(verb: str, out: Path) -> None:
    """Refuse to write into a folder that holds a run of another verb, or files of a run's names that are not a run's.

    Raises:
        VitrailError: it does.
    """
    found = verb_of(out)
    if found not in (None, verb):
        raise VitrailError(
            f"{out}: holds a run of vitrail {found}, which stays as it is; give another folder with --out"
        )
    strange = [name for name in (CONFIG, METRICS) if found is None and (out / name).exists()]
    if strange:
        raise VitrailError(f"{out}: holds a {strange[0]} that is not a run's; give an empty or new folder with --out")


def verb_of(out: Path) -> str | None:
    """Which verb made a run folder, by the first line of its config; None where no verb did."""
    try:
        with (out / CONFIG).open(encoding="utf-8") as file:
            made = _MADE_BY.match(file.readline())
    except (OSError, UnicodeDecodeError):
        return None
    return made and made[1]


def same_data(one: object, other: object) -> bool:
    """Whether two options name the same data, also where one path is written in another way."""
    if one == other:
        return True
    if not (isinstance(one, str) and isinstance(other, str) and Path(one).exists() and Path(other).exists()):
        return False
    return Path(one).samefile(other)


def write_metrics(out: Path, values: Mapping[str, Any]) -> None:
    """``metrics.json``, whole or not at all.

    Raises:
        VitrailError: it cannot be written.
    """
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    # Of names of pictures that are no text, JSON's own escapes come out.
    write_durably(out / METRICS, lambda path: path.write_text(text, encoding="utf-8", errors="backslashreplace"))


def environment(device: torch.device, precision_reason: str) -> dict[str, str]:
    """What a reader needs to judge the figures: versions and machine."""
    # Here, since what draws benchmarks comes along, for which most verbs need not wait.
    from vitrail.speed.bench.machine import machine

    return {
        "vitrail": version("vitrail"),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "machine": machine(),
        "device": str(device),
        "precision": precision_reason,
        "threads": str(torch.get_num_threads()),
    }


def command_line(verb: str, out: Path) -> str:
    """The exact command of this process, or the one that repeats its config when Python called the job."""
    if Path(sys.argv[0]).stem in ("vitrail", "__main__"):
        return shlex.join(["vitrail", *sys.argv[1:]])
    return shlex.join(["vitrail", verb, "--config", str(out / CONFIG)])
