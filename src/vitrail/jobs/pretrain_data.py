"""Pictures to learn from without labels, with their classes where they have any."""

from __future__ import annotations

from vitrail.contracts import VitrailError
from vitrail.data import Splits, open_data
from vitrail.engine import World
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.progress import say_once


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
        return opened(labelled=False)
    try:
        return opened(labelled=True)
    except VitrailError as error:
        reason = error
    splits = opened(labelled=False)
    say_once(world, f"no classes to measure by ({reason})")
    return splits
