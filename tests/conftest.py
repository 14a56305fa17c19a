"""Shapes in signatures are checked at run time, everywhere in the package, for as long as tests run."""

import os

from hypothesis import settings
from jaxtyping import install_import_hook

CHECKED = ("nn", "heads", "models", "data", "weights", "metrics")
install_import_hook([f"vitrail.{room}" for room in CHECKED], "beartype.beartype")

# A change lands or not on what it did itself: the search for new examples goes on everywhere else.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

pytest_plugins = ("tests.jobs.tiny",)
