"""Shapes in signatures are checked at run time, everywhere in the package, for as long as tests run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

CHECKED = ("nn", "heads", "models", "data", "weights", "metrics")
install_import_hook([f"vitrail.{room}" for room in CHECKED], "beartype.beartype")

# A change lands or not on what it did itself: the search for new examples goes on everywhere else.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

pytest_plugins = ("tests.jobs.tiny",)


@pytest.fixture(scope="session")
def known_of_the_machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the clock said of this machine during the tests: a busy one, whose answers nobody else should live with."""
    return tmp_path_factory.mktemp("cache") / "machine.json"


@pytest.fixture(autouse=True)
def _own_cache(known_of_the_machine: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from vitrail import machine

    monkeypatch.setattr(machine, "cache_file", lambda: known_of_the_machine)
    yield
