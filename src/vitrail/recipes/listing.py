"""``vitrail list``: what there is, recipes among it."""

from __future__ import annotations

from vitrail.jobs.listing import ListConfig, listing
from vitrail.recipes import recipe_summaries


def list_all(config: ListConfig) -> None:
    """Print it."""
    listing(config, recipe_summaries())
