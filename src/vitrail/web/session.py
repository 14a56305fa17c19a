"""What a server remembers: its models, pictures and the latest encodings."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence

from vitrail.web.encoding import Encoding, encode
from vitrail.web.pictures import Pictures
from vitrail.web.refused import Refused
from vitrail.web.shown import Shown, sizes_of

MAX_ENCODED = 1 << 30
"""Bytes of encodings that are kept; the least recently used go first, the two latest stay."""
ALWAYS_KEPT = 2


class Session:
    """Everything behind one page.

    Args:
        models: one, or several to be shown side by side.
        pictures: to choose from.
        encoded: bytes of encodings that are kept.
    """

    def __init__(self, models: Sequence[Shown], pictures: Pictures, encoded: int = MAX_ENCODED) -> None:
        self.id = secrets.token_hex(8)
        self.models = {shown.id: shown for shown in models}
        self.pictures = pictures
        self._limit = encoded
        self._encodings: OrderedDict[str, Encoding] = OrderedDict()
        self._lock = threading.Lock()

    def state(self) -> dict[str, object]:
        """What the page is told at first."""
        models = list(self.models.values())
        return {
            "models": [shown.state() for shown in models],
            "pictures": self.pictures.state(),
            "sizes": sizes_of(models),
            "session": self.id,
        }

    def encode(self, model: str, picture: str, size: int) -> Encoding:
        """A picture through a model, once: the same request gives the same encoding as long as it is kept.

        Not for two threads at once.

        Raises:
            Refused: there is no such model or picture, or the size will not do.
            BrokenPicture: the file cannot be read.
        """
        if model not in self.models:
            raise Refused(404, f"there is no model {model!r} on this page; there are {', '.join(self.models)}")
        chosen = self.pictures.get(picture)
        identity = hashlib.sha256(f"{model} {picture} {size}".encode()).hexdigest()[:16]
        known = self._known(identity)
        if known is not None:
            return known
        encoding = encode(identity, self.models[model], lambda channels: self.pictures.open(chosen, channels), size)
        with self._lock:
            self._encodings[identity] = encoding
            held = sum(kept.nbytes for kept in self._encodings.values())
            while held > self._limit and len(self._encodings) > ALWAYS_KEPT:
                _, oldest = self._encodings.popitem(last=False)
                held -= oldest.nbytes
        return encoding

    def encoding(self, identity: str) -> Encoding:
        """An encoding by its id, which makes it the latest.

        Raises:
            Refused: it is no longer kept.
        """
        known = self._known(identity)
        if known is None:
            raise Refused(410, "this encoding is no longer kept: encode the picture again")
        return known

    def _known(self, identity: str) -> Encoding | None:
        with self._lock:
            encoding = self._encodings.get(identity)
            if encoding is not None:
                self._encodings.move_to_end(identity)
            return encoding
