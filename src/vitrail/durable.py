"""Files that are either wholly there or not there at all, whatever happens to the process or the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from vitrail.contracts import VitrailError

_TEMPORARY = ".vitrail-partial"


def write_durably(path: Path, write: Callable[[Path], object], before_rename: Callable[[], None] | None = None) -> None:
    """Let ``write`` fill a temporary file beside ``path``, force it to the disk, then rename it to ``path``.

    Args:
        path: the file to appear, replacing one of that name.
        write: writes the whole content to the path it is given.
        before_rename: called once the new content is safe on the disk and before it takes its name.

    Raises:
        VitrailError: the disk is full, the folder is read-only …; ``path`` is then as it was before.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        write(temporary)
        _sync(temporary)
        if before_rename is not None:
            before_rename()
        temporary.replace(path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise VitrailError(
            f"cannot write {path}: {error}. Make room on the disk or the folder writable, then run the same command "
            "again; the earlier file is untouched"
        ) from error
    finally:
        remove_quietly(temporary)


def clean_partial(folder: Path) -> list[str]:
    """Remove what killed runs left half-written in ``folder``; returns the names."""
    stray = sorted(folder.glob(f"*{_TEMPORARY}"))
    for path in stray:
        remove_quietly(path)
    return [path.name for path in stray]


def remove_quietly(path: Path) -> None:
    """Remove a file if it is there; that it cannot be removed is no reason to stop."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def prepare_folder(folder: Path) -> None:
    """Create ``folder`` and prove that it can be written to.

    Raises:
        VitrailError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VitrailError(f"cannot create the output folder {folder}: {error}. Choose another") from error
    probe = folder / ".vitrail-writable"
    write_durably(probe, lambda path: path.touch())
    remove_quietly(probe)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
