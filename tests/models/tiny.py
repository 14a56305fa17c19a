"""Tiny variants of all families: overrides by model name, from every ``tiny_<family>.py`` beside this file."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

TINY: dict[str, dict[str, Any]] = {}
for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if _module.name.startswith("tiny_"):
        TINY |= importlib.import_module(f"tests.models.{_module.name}").TINY
