"""Pictures in folders: one sub-folder a class, or any pictures without classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.contracts import VitrailError
from vitrail.data.files import EXTENSIONS, list_pictures, printable
from vitrail.data.sources.base import PathSource


class FileSource(PathSource):
    """Pictures by path, without labels.

    Args:
        paths: the files, e.g. from :func:`vitrail.data.list_pictures`.
        channels: 3 (RGB) or 1 (grey).
        root: what :meth:`describe` gives as their origin.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], channels: int = 3, root: str = "") -> None:
        if not paths:
            raise VitrailError("A list of no pictures was given as a data set")
        super().__init__((os.fspath(path) for path in paths), channels)
        self.root = root
        self.classes: tuple[str, ...] = ()
        self.labels = np.full(len(self.paths), -1, dtype=np.int64)

    def describe(self) -> dict[str, Any]:
        """Kind, origin and length."""
        return {"kind": "files", "root": self.root, "length": len(self)}


class FolderSource(PathSource):
    """One sub-folder per class, pictures below it at any depth; classes are numbered by sorted folder name.

    Hidden files and folders (a leading dot) and files that are no pictures are left out.

    Args:
        root: the folder that holds the class folders.
        channels: 3 (RGB) or 1 (grey).

    Raises:
        VitrailError: no class folders, an empty one, or pictures that lie beside the class folders.
    """

    def __init__(self, root: str | os.PathLike[str], channels: int = 3) -> None:
        self.root = Path(root)
        folders = class_folders(self.root)
        if not folders:
            raise VitrailError(f"{printable(self.root)}: no class folders there; one sub-folder per class is needed")
        loose = loose_pictures(self.root)
        if loose:
            raise VitrailError(
                f"{printable(self.root)}: {len(loose)} pictures lie beside the class folders "
                f"(e.g. {printable(loose[0])}); move them into a class folder or elsewhere"
            )
        self.classes = tuple(folder.name for folder in folders)
        paths: list[str] = []
        numbers: list[int] = []
        for number, folder in enumerate(folders):
            try:
                found = list_pictures(folder)
            except VitrailError as error:
                raise VitrailError(f"Class {folder.name!r} is empty: {error}") from None
            paths += map(os.fspath, found)
            numbers += [number] * len(found)
        super().__init__(paths, channels)
        self.labels = np.array(numbers, dtype=np.int64)

    def describe(self) -> dict[str, Any]:
        """Kind, root and length."""
        return {"kind": "folder", "root": os.fspath(self.root), "length": len(self)}


def class_folders(root: Path) -> list[Path]:
    """The visible sub-folders of ``root``, sorted by name."""
    return sorted(path for path in _entries(root) if path.is_dir())


def loose_pictures(root: Path) -> list[Path]:
    """The visible pictures right in ``root``, sorted by name."""
    return sorted(path for path in _entries(root) if path.suffix.lower() in EXTENSIONS and path.is_file())


def _entries(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if not path.name.startswith(".")]
    except FileNotFoundError:
        raise VitrailError(f"{printable(root)}: no such folder") from None
    except OSError as error:
        raise VitrailError(f"{printable(root)}: cannot be listed: {error.strerror or error}") from None
