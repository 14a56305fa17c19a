"""What every verb is asked with: shared options, and how the values of a config become the parts that do the work."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from glob import has_magic
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
import yaml

from vitrail.contracts import VitrailError
from vitrail.durable import write_durably

ImageSize = int | tuple[int, int]
Precision = Literal["auto", "fp32", "bf16"]

MOST_SEED = 2**63 - 1
"""What the engine and torch's generators take: 64 bits with a sign."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options that mean the same for every verb."""

    model: str
    """Name of a pretrained model, folder of a run or of an artefact, or a checkpoint file."""
    image_size: ImageSize | None = None
    """Pixels, one number or height and width. Left out: what the model was made for."""
    patch_size: ImageSize | None = None
    """Pixels of a patch. Left out: the model's own; another one resizes the patch projection."""
    batch_size: int = 32
    """Pictures at once; in training, pictures per optimiser step over all processes. No matter to explain, export."""
    seed: int = 0
    """Of the split and of all randomness. No matter to explain and export."""
    out: Path | None = None
    """Where results go. Left out: a folder under runs/ named after the verb, the data and the model."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """auto takes bf16 where the hardware proves faster with it."""
    workers: int | None = None
    """Processes that read pictures; 0 reads in the main one. Left out: 2, but 0 where a model answers on a CPU. No
    matter to explain and export."""
    on_error: Literal["raise", "skip"] = "raise"
    """A broken picture stops the job, or is left out and listed."""
    online: bool = False
    """Whether models and data sets may be downloaded."""

    def __post_init__(self) -> None:
        """Refuse numbers that no job can work with."""
        for name, least in (("batch_size", 1), ("workers", 0), ("seed", 0)):
            value = asdict(self)[name]
            if value is not None and value < least:
                raise VitrailError(f"{name} must be at least {least}, not {value}")
        if self.seed > MOST_SEED:
            raise VitrailError(f"seed must be at most {MOST_SEED}, not {self.seed}")
        for name, size in (("image_size", self.image_size), ("patch_size", self.patch_size)):
            sides = () if size is None else (size,) if isinstance(size, int) else size
            if any(side < 1 for side in sides):
                raise VitrailError(f"{name} must be at least 1 pixel, not {size}")

    @property
    def training_workers(self) -> int:
        """Processes that read pictures while a model learns."""
        return 2 if self.workers is None else self.workers

    def inference_workers(self, device: torch.device) -> int:
        """Processes that read pictures while a model answers.

        On a CPU none unless asked for: the model's threads wait for each other, so that a core that is lent out to a
        reader holds up all of them for longer than reading between two batches does.
        """
        if self.workers is None and device.type == "cpu":
            return 0
        return self.training_workers

    def model_overrides(self) -> dict[str, Any]:
        """Fields of the architecture that these options replace."""
        named = {"img_size": self.image_size, "patch_size": self.patch_size}
        return {name: value for name, value in named.items() if value is not None}


ACTION: Mapping[str, bool] = MappingProxyType({"action": True})
"""Marks, as its metadata, a field that says what one start is to do and not what the run is: it is never stored."""


def to_plain(config: Settings) -> dict[str, Any]:
    """A config as plain YAML values, without those that stand at their defaults and :data:`ACTION` fields."""
    defaults = {f.name: f.default for f in fields(config) if f.default is not MISSING}
    actions = {f.name for f in fields(config) if f.metadata == ACTION}
    values = {name: value for name, value in asdict(config).items() if name not in actions}
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if name not in defaults or defaults[name] != value
    }


def write_config(verb: str, config: Settings, path: Path) -> None:
    """The file that repeats a run: ``vitrail VERB --config FILE``; whole or not at all.

    Raises:
        VitrailError: it cannot be written.
    """
    header = f"# Repeat with: vitrail {verb} --config {shlex.quote(str(path))}\n"
    text = header + yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)
    write_durably(path, lambda file: file.write_text(text, encoding="utf-8"))


def read_config(path: Path) -> dict[str, Any]:
    """The values of a config file.

    Raises:
        VitrailError: not a readable YAML mapping, or one that gives an option twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_repeated(yaml.compose(text, yaml.SafeLoader), path)
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise VitrailError(f"{path}: cannot be read as a config ({error})") from error
    if not isinstance(values, dict):
        raise VitrailError(f"{path}: a config is a list of 'name: value' lines, this is {type(values).__name__}")
    return values


def _refuse_repeated(document: yaml.Node | None, path: Path) -> None:
    """YAML's own reader takes the last of several lines for one option, and is silent about the others."""
    lines: dict[str, int] = {}
    for key, _ in document.value if isinstance(document, yaml.MappingNode) else ():
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and lines.setdefault(key.value, line) != line:
            raise VitrailError(
                f"{path}: {key.value} is given twice, in line {lines[key.value]} and in line {line}: remove one of them"
            )


def make_folder(folder: Path, option: str = "--out") -> None:
    """A folder that results can go into: jobs make it before they work, not when the work is done.

    Args:
        folder: where.
        option: by which another one is given, for the message.

    Raises:
        VitrailError: it cannot be made or written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file of that name is in the way" if isinstance(error, FileExistsError) else error.strerror
        raise VitrailError(f"{folder}: cannot be made ({reason}); give another folder with {option}") from error
    if not os.access(folder, os.W_OK):
        raise VitrailError(f"{folder}: cannot be written into; give another folder with {option}")


def default_out(verb: str, *parts: str) -> Path:
    """``runs/verb-part-part``: of a path its last name, after the folder's where that says little (a glob, a run's
    ``model``), and everything that does not belong in a file name replaced.

    Different parts may have one name: who must not write over another's results looks who is there.
    """
    paths = [Path(part) for part in parts]
    names = ["-".join(path.parts[-2:]) if path.name == "model" or has_magic(path.name) else path.name for path in paths]
    safe = ["".join(c if c.isalnum() or c in "._-" else "-" for c in name) for name in names]
    return Path("runs") / "-".join([verb, *(part for part in safe if part)])
