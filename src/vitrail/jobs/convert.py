"""``vitrail convert``: a checkpoint from one library's format to another's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from vitrail.jobs.models import weights_of
from vitrail.jobs.progress import say
from vitrail.weights import Account
from vitrail.weights import convert as convert_weights


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Translate a checkpoint and print the account of its keys."""

    source: Positional[Path]
    """Folder of a run, a checkpoint file, or a folder with one (Transformers, timm, Vitrail)."""
    target: Positional[Path]
    """File or folder to write; must not exist."""
    to: Literal["timm", "transformers", "vitrail"]
    """Format to write."""


def convert(config: ConvertConfig) -> Account:
    """Translate a checkpoint; every key is accounted for or it is an error."""
    account = convert_weights(weights_of(str(config.source)), config.target, to=config.to)
    say(str(account))
    return account
