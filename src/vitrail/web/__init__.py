"""The explorer: a local page on which what a model sees follows the mouse, and the server behind it."""

from vitrail.web.explore import ExploreConfig, explore

__all__ = ["ExploreConfig", "explore"]
