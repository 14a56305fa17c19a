"""Options given as ``name=value``: fields of an architecture, the numbers of a method."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import yaml

from vitrail.contracts import VitrailError

T = TypeVar("T")


def named_values(options: Sequence[str], what: str) -> dict[str, Any]:
    """``("depth=6", "pool=mean")`` as names and values; values are read as YAML.

    Args:
        options: each ``name=value``.
        what: they are called in messages.

    Raises:
        VitrailError: of another form.
    """
    found: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise VitrailError(f"{what} {option!r} is not of the form name=value")
        try:
            found[name.strip().replace("-", "_")] = yaml.load(value, _Values)
        except yaml.YAMLError as error:
            raise VitrailError(
                f"{what} {option!r}: the value cannot be read ({' '.join(str(error).split())})"
            ) from error
    return found


class _Values(yaml.SafeLoader):
    """YAML that knows 1e-4, without a point, for a number."""


_Values.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def filled(kind: type[T], options: Sequence[str], what: str) -> T:
    """A dataclass of options with some of its fields set.

    Args:
        kind: the dataclass; every field has a default.
        options: each ``name=value``.
        what: they are called in messages.

    Raises:
        VitrailError: an unknown name, with those there are, or a value of another kind than the default's.
    """
    known = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    values = named_values(options, what)
    unknown = [name for name in values if name not in known]
    if unknown:
        raise VitrailError(f"there is no {what} {', '.join(unknown)}; there are {', '.join(known) or 'none'}")
    return kind(**{name: _like(name, value, known[name], what) for name, value in values.items()})


def _like(name: str, value: Any, default: Any, what: str) -> Any:
    """A value in the type of the default it replaces; YAML's lists become tuples."""
    if isinstance(value, list):
        kinds = default if isinstance(default, tuple) and len(default) == len(value) else [None] * len(value)
        value = tuple(_like(name, part, kind, what) for part, kind in zip(value, kinds, strict=True))
    if default is None or default is MISSING or value is None:
        return value
    try:
        if isinstance(default, float) and not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    if type(value) is not type(default):
        raise VitrailError(f"{what} {name}={value!r} is {type(value).__name__}, not {type(default).__name__}")
    return value
