"""Recipes: small files, each a docstring (command, cost, expected score) and a function that returns a config."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from vitrail.contracts import VitrailError
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.probe import ProbeConfig
from vitrail.jobs.train_config import TrainConfig
from vitrail.recipes import (
    deit,
    elpv,
    elpv_dinov2,
    elpv_long,
    elpv_mae,
    elpv_plain,
    elpv_probe,
    fashion_mnist,
    fashion_mnist_beit,
    fashion_mnist_dino,
    fashion_mnist_long,
    fashion_mnist_mae,
    fashion_mnist_tokenizer,
    mae_base,
)

Recipe = Callable[[], TrainConfig] | Callable[[], ProbeConfig] | Callable[[], PretrainConfig]

RECIPES: dict[str, Recipe] = {
    "deit": deit.config,
    "elpv": elpv.config,
    "elpv_dinov2": elpv_dinov2.config,
    "elpv_long": elpv_long.config,
    "elpv_mae": elpv_mae.config,
    "elpv_plain": elpv_plain.config,
    "elpv_probe": elpv_probe.config,
    "fashion_mnist": fashion_mnist.config,
    "fashion_mnist_beit": fashion_mnist_beit.config,
    "fashion_mnist_dino": fashion_mnist_dino.config,
    "fashion_mnist_long": fashion_mnist_long.config,
    "fashion_mnist_mae": fashion_mnist_mae.config,
    "fashion_mnist_tokenizer": fashion_mnist_tokenizer.config,
    "mae_base": mae_base.config,
}


def recipe_config(name: str) -> TrainConfig | ProbeConfig | PretrainConfig:
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
