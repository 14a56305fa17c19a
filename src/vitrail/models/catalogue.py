"""Every architecture by its name. A family adds one line to ``MODELS`` and one to ``FAMILIES``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from fnmatch import fnmatch
from typing import Any

from vitrail.contracts import VitrailError
from vitrail.models.backbone import Backbone
from vitrail.models.vit import VIT_MODELS, VisionTransformer, ViTConfig

Config = ViTConfig
"""Any family's dataclass."""

FAMILIES: dict[type[Config], Callable[[Any], Backbone]] = {ViTConfig: VisionTransformer}
MODELS: dict[str, Config] = {**VIT_MODELS}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the architectures that match a shell pattern (``"vit_*dinov2"``), sorted."""
    return sorted(name for name in MODELS if fnmatch(name, pattern))


def config_of(name: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config of a named architecture, with some fields replaced.

    Raises:
        VitrailError: unknown name (with the nearest ones) or unknown field (with those there are).
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "see list_models()"
        raise VitrailError(f"there is no model {name!r}: {hint}")
    config, overrides = MODELS[name], overrides or {}
    known = {field.name for field in fields(config)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise VitrailError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return replace(config, **overrides)


def build(config: Config) -> Backbone:
    """A model with fresh weights from its config."""
    return FAMILIES[type(config)](config)
