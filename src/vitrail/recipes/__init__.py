"""Recipes: small files, each a docstring (command, cost, expected score) and a function that returns a config."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from vitrail.contracts import VitrailError
from vitrail.jobs.probe import ProbeConfig
from vitrail.jobs.train_config import TrainConfig
from vitrail.recipes import deit, elpv, elpv_long, elpv_plain, elpv_probe, fashion_mnist, fashion_mnist_long

Recipe = Callable[[], TrainConfig] | Callable[[], ProbeConfig]

RECIPES: dict[str, Recipe] = {
    "deit": deit.config,
    "elpv": elpv.config,
    "elpv_long": elpv_long.config,
    "elpv_plain": elpv_plain.config,
    "elpv_probe": elpv_probe.config,
    "fashion_mnist": fashion_mnist.config,
    "fashion_mnist_long": fashion_mnist_long.config,
}


def recipe_config(name: str) -> TrainConfig | ProbeConfig:
    """The config of a recipe.

    Raises:
        VitrailError: there is no such recipe.
    """
    if name not in RECIPES:
        raise VitrailError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()


def recipe_summaries() -> dict[str, str]:
    """The first line of each recipe's docstring."""
    return {name: (inspect.getdoc(inspect.getmodule(make)) or "").split("\n")[0] for name, make in RECIPES.items()}
