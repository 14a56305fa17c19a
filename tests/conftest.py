"""Shapes in signatures are checked at run time, everywhere in the package, for as long as tests run."""

from jaxtyping import install_import_hook

install_import_hook(["vitrail.nn", "vitrail.heads", "vitrail.models", "vitrail.data", "vitrail.metrics"], "beartype.beartype")

pytest_plugins = ("tests.jobs.tiny",)
