"""Shapes in signatures are checked at run time, everywhere in the package, for as long as tests run."""

from jaxtyping import install_import_hook

CHECKED = ("nn", "heads", "models", "data", "weights", "metrics")
install_import_hook([f"vitrail.{room}" for room in CHECKED], "beartype.beartype")

pytest_plugins = ("tests.jobs.tiny",)
