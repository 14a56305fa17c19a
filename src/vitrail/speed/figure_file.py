"""Figures into files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from vitrail.contracts import VitrailError


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure in the format that the file's ending names; its folder is made.

    Raises:
        VitrailError: the file cannot be written, or the ending is unknown.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise VitrailError(f"{path}: the plot cannot be written ({error}); name a .png, .pdf or .svg file") from error
    return path
