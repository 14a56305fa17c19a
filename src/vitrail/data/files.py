"""Files by name: read whole, or the reason why not; and found below a folder, in one order on every machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path

from vitrail.contracts import VitrailError

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".tga"}
)
"""File name endings (lower case) that :func:`list_pictures` takes for pictures."""

MAX_BYTES = 1 << 30
"""Files larger than this (1 GiB) are refused unread."""


class BrokenPicture(VitrailError):
    """A picture that cannot be used.

    Attributes:
        name: the file's path, or what stands for it.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{printable(self.name)}: {self.reason}"


def printable(name: str | os.PathLike[str]) -> str:
    """``name`` on one line: line breaks, control characters and undecodable bytes escaped."""
    text = os.fspath(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def read_file(path: Path, name: str) -> bytes:
    """A whole file.

    Args:
        path: where it is.
        name: what to call it in messages.

    Raises:
        BrokenPicture: empty, more than :data:`MAX_BYTES`, or what :func:`require_file` refuses.
    """
    size = require_file(path, name)
    if size > MAX_BYTES:
        raise BrokenPicture(name, f"larger than {MAX_BYTES:,} bytes")
    with _naming(path, name):
        data = path.read_bytes()
    if not data:
        raise BrokenPicture(name, "the file is empty")
    return data


def require_file(path: Path, name: str) -> int:
    """The size in bytes of what can be read without waiting for ever.

    Raises:
        BrokenPicture: missing, a folder, a pipe, a link to nothing, unreadable, not a possible name.
    """
    with _naming(path, name):
        status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise BrokenPicture(name, "is a folder, not a picture")
    # Reading a pipe or a device could wait for ever.
    if not stat.S_ISREG(status.st_mode):
        raise BrokenPicture(name, "is not a regular file")
    return status.st_size


@contextmanager
def _naming(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        reason = "a symbolic link to nothing" if path.is_symlink() else "no such file"
        raise BrokenPicture(name, reason) from None
    except ValueError as error:
        raise BrokenPicture(name, f"not a possible file name ({error})") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise BrokenPicture(name, f"cannot be read: {reason}") from None
    except RuntimeError as error:
        raise BrokenPicture(name, f"cannot be read: {error}") from None


def list_pictures(source: str | os.PathLike[str]) -> list[Path]:
    """The pictures of a file, a folder (with all its sub-folders) or a glob pattern.

    Folders are searched for the endings in :data:`EXTENSIONS`; hidden files and folders (a leading dot) are left
    out; links to folders are followed, each real folder once and never to a folder above. A file named outright is
    taken whatever its ending.

    Returns:
        Paths sorted by name, part by part, the same on every machine.

    Raises:
        VitrailError: nothing is there, or it holds no picture.
    """
    path = Path(source)
    text = os.fspath(source)
    with naming_root(text):
        if path.is_dir():
            paths = (Path(folder, name) for folder, names in walk_folders(path) for name in names)
            found = sorted(file for file in paths if file.suffix.lower() in EXTENSIONS)
        elif path.is_file():
            return [path]
        elif has_magic(text):
            # Path.glob takes no absolute patterns.
            hits = (Path(hit) for hit in sorted(glob(text, recursive=True)))  # noqa: PTH207
            files = (hit for hit in hits if hit.suffix.lower() in EXTENSIONS and hit.is_file())
            # Through a loop of links one file is found under many names; the first counts.
            found = sorted({hit.resolve(): hit for hit in reversed(list(files))}.values())
        else:
            raise VitrailError(f"{printable(text)}: no such file or folder")
    if not found:
        raise VitrailError(f"{printable(text)}: no pictures there (endings looked for: {' '.join(sorted(EXTENSIONS))})")
    return found


@contextmanager
def naming_root(root: str | os.PathLike[str]) -> Iterator[None]:
    """What the system says while ``root`` is searched, as an error that names it.

    Raises:
        VitrailError: instead of any OSError, and of what impossible names and loops of links raise.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise VitrailError(f"{printable(root)}: cannot be listed: {error}") from None


def walk_folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, each with the names of its files, sorted.

    Hidden files and folders (a leading dot) are left out; links to folders are followed, each real folder once and
    never to a folder above.

    Raises:
        OSError: one cannot be listed.
    """
    # The folders above count as seen: a link back to them would bring in files that are not below ``root``.
    seen = {(above.stat().st_dev, above.stat().st_ino) for above in root.resolve().parents}
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_raise):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Sorted in place: which of two links to one folder is taken must not depend on the file system's order.
        subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
        yield Path(folder), sorted(name for name in names if not name.startswith("."))


def _raise(error: OSError) -> None:
    raise error
