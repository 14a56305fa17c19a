"""What ``import vitrail`` offers: every name once, the verbs of the command line among them."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import pytest

import vitrail
from vitrail.cli import VERBS


@pytest.mark.parametrize("name", vitrail.__all__)
def test_a_name_is_the_same_thing_whenever_it_is_asked_for(name: str) -> None:
    first = getattr(vitrail, name)
    for room in iter_modules(vitrail.__path__):  # An imported room becomes an attribute of the package.
        if room.name != "__main__":
            import_module(f"vitrail.{room.name}")
    assert getattr(vitrail, name) is first


def test_every_verb_but_list_is_a_function_with_its_config() -> None:
    for name, verb in VERBS.items():
        if name != "list":  # In Python: list_models and the tables beside it.
            assert getattr(vitrail, name) is verb.job
            assert getattr(vitrail, verb.config.__name__) is verb.config
