"""The pictures that the page can choose from: files of this machine, and uploads that stay in memory."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from vitrail.data import list_pictures, printable, read_picture
from vitrail.data.picture import picture_size
from vitrail.web.refused import Refused

MOST_FILES = 500
"""Of a folder's pictures, so many are offered."""
MAX_UPLOADED = 512 << 20
"""Bytes of uploaded files that are kept; the oldest go first."""


@dataclass(frozen=True)
class Picture:
    """One picture to choose.

    Attributes:
        id: the same for the same file or the same bytes, also after a restart.
        name: for the user.
        width, height: upright, in pixels.
        source: where it lies, or what was uploaded.
    """

    id: str
    name: str
    width: int
    height: int
    source: Path | bytes

    def state(self) -> dict[str, object]:
        """What the page is told."""
        return {"id": self.id, "name": self.name, "width": self.width, "height": self.height}


class Pictures:
    """All pictures of a session; uploads never touch the disk.

    Args:
        uploads: bytes of uploaded files that are kept.
    """

    def __init__(self, uploads: int = MAX_UPLOADED) -> None:
        self._limit = uploads
        self._known: OrderedDict[str, Picture] = OrderedDict()
        self._last: tuple[str, int, Image.Image] | None = None
        self._lock = threading.Lock()

    def add_file(self, path: Path, name: str) -> Picture:
        """Offer a file; only its header is read.

        Raises:
            BrokenPicture: it is no picture.
        """
        width, height = picture_size(path)
        return self._keep(Picture(_digest(str(path.resolve()).encode()), name, width, height, path))

    def add_upload(self, data: bytes, name: str) -> Picture:
        """Keep an uploaded file, decoded once to see that it is whole.

        Args:
            data: the file.
            name: the user's; of a path the last part is taken.

        Raises:
            BrokenPicture: it cannot be used, and why.
            Refused: it is too large.
        """
        name = printable(PurePosixPath(name.replace("\\", "/")).name)[:200] or "picture"
        if len(data) > self._limit:
            raise Refused(413, f"{name} is larger than what is kept of all pictures together")
        shown = read_picture(data, 3, name)
        picture = Picture(_digest(data), name, shown.width, shown.height, data)
        with self._lock:
            self._last = (picture.id, 3, shown)
        return self._keep(picture)

    def get(self, number: str) -> Picture:
        """A picture by its id.

        Raises:
            Refused: there is none, or it is no longer kept.
        """
        with self._lock:
            if number not in self._known:
                raise Refused(410, "this picture is no longer kept: choose or drop it again")
            return self._known[number]

    def open(self, picture: Picture, channels: int) -> Image.Image:
        """A picture's pixels, upright.

        Args:
            picture: which.
            channels: 3 for RGB, 1 for grey.

        Raises:
            BrokenPicture: its file is broken, or has gone.
        """
        with self._lock:
            if self._last is not None and self._last[:2] == (picture.id, channels):
                return self._last[2]
        pixels = read_picture(picture.source, channels, picture.name)
        with self._lock:
            self._last = (picture.id, channels, pixels)
        return pixels

    def state(self) -> list[dict[str, object]]:
        """What the page is told, in the order in which they came."""
        with self._lock:
            return [picture.state() for picture in self._known.values()]

    def _keep(self, picture: Picture) -> Picture:
        with self._lock:
            self._known.setdefault(picture.id, picture)
            uploads = [(p.id, len(p.source)) for p in self._known.values() if isinstance(p.source, bytes)]
            total = sum(size for _, size in uploads)
            for oldest, size in uploads:
                if total <= self._limit or oldest == picture.id:
                    break
                del self._known[oldest]
                total -= size
            return self._known[picture.id]


def find_pictures(source: str) -> tuple[list[tuple[Path, str]], int]:
    """The pictures of a file, a folder or a glob with the names that the page shows, and how many were left out."""
    paths = list_pictures(source)
    root = Path(source)
    named = [(path, str(path.relative_to(root)) if root.is_dir() else path.name) for path in paths[:MOST_FILES]]
    return [(path, printable(name)) for path, name in named], len(paths) - len(named)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
