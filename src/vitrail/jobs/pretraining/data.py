"""Pictures to learn from without labels, with their classes where they have any."""

from __future__ import annotations

from vitrail.contracts import VitrailError
from vitrail.data import Splits, SubsetSource, open_data, split_source
from vitrail.engine import World
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.progress import say_once

HELD_OUT = 512
"""Unlabelled pictures that are held out at most: enough for the spread of the features, and to look at."""


def open_pictures(config: PretrainConfig, world: World) -> Splits:
    """Training and held-out pictures; with classes where the data has usable ones, so that they can be measured by.

    Raises:
        VitrailError: there are no pictures.
    """

    def opened(labelled: bool) -> Splits:
        return open_data(
            config.data,
            val_fraction=config.val_fraction,
            seed=config.split_seed,
            online=config.online,
            labelled=labelled,
        )

    if not config.labels:
        return mostly_for_training(opened(labelled=False), config.split_seed)
    try:
        return opened(labelled=True)
    except VitrailError as error:
        reason = error
    splits = mostly_for_training(opened(labelled=False), config.split_seed)
    say_once(world, f"no classes to measure by ({reason})")
    return splits


def mostly_for_training(splits: Splits, seed: int) -> Splits:
    """At most :data:`HELD_OUT` pictures held out, where Vitrail made the split: none is owed to a later comparison."""
    train, val = splits
    if isinstance(train, SubsetSource) and isinstance(val, SubsetSource) and train.source is val.source:
        return splits if len(val) <= HELD_OUT else split_source(val.source, HELD_OUT / len(val.source), seed)
    return splits
