"""One picture through one model at one size, and everything that the page can ask of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitrail.data import Preprocess
from vitrail.explanations import picture_of
from vitrail.explanations.recall import Recall, remember
from vitrail.web.refused import Refused
from vitrail.web.shown import Shown

MIN_SIZE, MAX_SIZE = 16, 2048
"""Short side in pixels."""
MAX_SEEN = 1_600_000
"""Pixels that a model is given; a panorama or a large size comes to more than a processor does while one waits."""


@dataclass(frozen=True)
class Encoding:
    """What a model made of a picture.

    Attributes:
        id: for the page; the same model, picture and size have the same.
        shown: the model.
        preprocess: how the picture became its input.
        images: that input, ``(1, C, H, W)``.
        recall: the forward pass.
        seconds: it took, with reading the picture.
        kept: what was computed later and is worth keeping, by name.
    """

    id: str
    shown: Shown
    preprocess: Preprocess
    images: Float[Tensor, "1 c h w"]
    recall: Recall
    seconds: float
    kept: dict[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what the model saw."""
        return (self.images.shape[-2], self.images.shape[-1])

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return self.recall.nbytes + self.images.nbytes + sum(value.nbytes for value in list(self.kept.values()))

    def once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """What ``compute`` gave the first time."""
        if name not in self.kept:
            self.kept[name] = compute()
        return self.kept[name]

    def seen(self) -> Image.Image:
        """The picture as the model saw it."""
        return picture_of(self.images[0], self.preprocess.mean, self.preprocess.std)

    def state(self) -> dict[str, object]:
        """What the page is told."""
        height, width = self.size
        tokens = self.recall.tokens
        return {
            "id": self.id,
            "grid": list(tokens.grid),
            "width": width,
            "height": height,
            "layers": len(self.recall.given),
            "heads": list(self.shown.heads),
            "grids": [list(grid) for grid in self.recall.grids],
            "prefix": tokens.prefix,
            "dim": tokens.values.shape[-1],
            "taps": len(self.recall.taps),
            "seconds": round(self.seconds, 3),
        }


def encode(identity: str, shown: Shown, read: Callable[[int], Image.Image], size: int) -> Encoding:
    """Run a model on a whole picture at its own aspect.

    Args:
        identity: for the page.
        shown: the model.
        read: gives the picture with 1 or 3 channels.
        size: short side in pixels; both sides become whole patches.

    Raises:
        Refused: a size that is too small or too large.
        BrokenPicture: a file that cannot be read.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise Refused(400, f"size is the short side in pixels, from {MIN_SIZE} to {MAX_SIZE}, not {size}")
    started = time.perf_counter()
    picture = read(shown.preprocess.channels)
    preprocess = shown.preprocess.with_size((size, size)).whole(picture, shown.step)
    _require_bearable(picture, preprocess.size, size)
    device = shown.hardware.device
    images = preprocess(picture)[None].to(device)
    with shown.ready.context():
        recall = remember(shown.ready.model, images)
    return Encoding(identity, shown, preprocess, images, recall, time.perf_counter() - started)


def _require_bearable(picture: Image.Image, seen: tuple[int, int], size: int) -> None:
    pixels = seen[0] * seen[1]
    if pixels <= MAX_SEEN:
        return
    fits = int(size * (MAX_SEEN / pixels) ** 0.5)
    advice = f"take a size of at most {fits}" if fits >= MIN_SIZE else "cut it to a less extreme shape"
    raise Refused(
        400,
        f"a picture of {picture.width} × {picture.height} would be shown to the model as {seen[1]} × {seen[0]} pixels, "
        f"more than the {MAX_SEEN:,} that it is given here: {advice}",
    )
