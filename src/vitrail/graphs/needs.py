"""Libraries that not everybody has, asked for by the name under which they are installed."""

from __future__ import annotations

import importlib
from types import ModuleType

from vitrail.contracts import VitrailError


def need(module: str, extra: str, what: str) -> ModuleType:
    """An optional library, imported.

    Args:
        module: its name in Python.
        extra: the extra of Vitrail that brings it.
        what: asks for it, for the message.

    Raises:
        VitrailError: it is not installed, or cannot be imported; with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise VitrailError(f'{what} needs {module} ({error}): pip install "vitrail[{extra}]"') from error
