"""Small text files that travel with a model (its tokenizer): by name, as they are, known by their fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path

from vitrail.weights.files import CheckpointError

TEXTS = ("*.json", "*.txt")
"""What their names end in."""
TAKEN = ("config.json", "README.md")


def digest(text: str) -> str:
    """A fingerprint."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def require_file_names(names: Iterable[str], folder: Path) -> None:
    """Refuse names that lead elsewhere, or are those of an artefact's own files."""
    for name in names:
        plain = Path(name).name == name and not name.startswith(".") and name not in TAKEN
        if not plain or not any(fnmatch(name, pattern) for pattern in TEXTS):
            raise CheckpointError(
                f"{folder}: {name!r} cannot travel with a model: plain names that end in .json or .txt"
            )


def write_texts(files: Mapping[str, str], folder: Path) -> None:
    """All of them into an existing folder."""
    for name, text in files.items():
        (folder / name).write_bytes(text.encode("utf-8"))


def read_texts(digests: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The files of these names and fingerprints.

    Raises:
        CheckpointError: one is gone, or is not the one that was saved.
    """
    require_file_names(digests, folder)
    texts: dict[str, str] = {}
    for name, expected in digests.items():
        file = folder / name
        try:
            texts[name] = file.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{file}: the model needs this file, and it cannot be read: {error}") from error
        if digest(texts[name]) != expected:
            raise CheckpointError(f"{file}: not the file that was saved with these weights: put that one back")
    return texts
