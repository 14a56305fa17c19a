"""``vitrail list``: what there is to name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from vitrail.data import KNOWN
from vitrail.jobs.pretraining.table import PRETRAINING
from vitrail.models import build, config_of, list_models
from vitrail.nn.embed import as_pair
from vitrail.weights import list_pretrained


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Architectures, pretrained weights, data sets, methods of pretraining and recipes by name."""

    what: Positional[Literal["models", "weights", "data", "methods", "recipes"]] = "models"
    """Which of them."""
    match: str = "*"
    """Shell pattern that names must match."""


def listing(config: ListConfig, recipes: Mapping[str, str]) -> list[dict[str, str]]:
    """Print a table of names on standard output, and give its rows.

    Args:
        config: what to list.
        recipes: one line about each recipe, by name.
    """
    rows: dict[str, Callable[[], list[dict[str, str]]]] = {
        "models": _models,
        "weights": _weights,
        "data": lambda: [{"name": name} for name in KNOWN],
        "methods": _methods,
        "recipes": lambda: [{"name": name, "about": about} for name, about in recipes.items()],
    }
    found = [row for row in rows[config.what]() if fnmatch(row["name"], config.match)]
    _show(found)
    return found


def _show(rows: Sequence[Mapping[str, str]]) -> None:
    """Names whole, since they are there to be copied: other columns make room for them on a terminal.

    Where another program reads, a row is a line, however long.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    if not rows:
        console.print("nothing matches")
        return
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    if not console.is_terminal:
        lines = ([line[key].ljust(width) for key, width in widths.items()] for line in ({k: k for k in widths}, *rows))
        console.print("\n".join("  ".join(cells).rstrip() for cells in lines))
        return
    table = Table(box=None, pad_edge=False)
    for key, width in widths.items():
        whole = key == "name"
        table.add_column(key, overflow="fold", no_wrap=whole, min_width=width if whole else None)
    for row in rows:
        table.add_row(*map(Text, row.values()))
    console.print(table)


def _models() -> list[dict[str, str]]:
    rows = []
    for name in list_models():
        config = config_of(name)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in build(config).parameters())
        height, width = as_pair(config.img_size)
        rows.append({"name": name, "parameters": f"{parameters:,}", "image": f"{height}x{width}"})
    return rows


def _weights() -> list[dict[str, str]]:
    return [
        {"name": entry.name, "model": entry.model, "source": entry.source, "licence": entry.licence}
        for entry in list_pretrained()
    ]


def _methods() -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "about": (inspect.getdoc(inspect.getmodule(entry.options)) or "").split("\n")[0],
            "options": ", ".join(field.name for field in fields(entry.options)),
        }
        for name, entry in PRETRAINING.items()
    ]
