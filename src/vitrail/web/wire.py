"""Numbers on their way to the page, maps as bytes with their scale, features in half precision; and from it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from starlette.responses import Response
from torch import Tensor

BINARY = "application/octet-stream"


@dataclass(frozen=True)
class Maps:
    """Maps as the page gets them.

    Attributes:
        values: 0 … 255, the last two axes rows and columns.
        tops: what 255 stands for, one number per map.
        prefix: what the tokens before the patches took, one number per map; empty where that means nothing.
    """

    values: UInt8[np.ndarray, "*maps h w"]
    tops: tuple[float, ...]
    prefix: tuple[float, ...] = ()

    def response(self) -> Response:
        """The bytes, row by row, with shape and scale as headers."""
        headers = {"X-Shape": _joined(self.values.shape), "X-Top": _joined(self.tops)}
        if self.prefix:
            headers["X-Prefix"] = _joined(self.prefix)
        return Response(self.values.tobytes(), media_type=BINARY, headers=headers)


def to_maps(maps: Float[Tensor, "*maps h w"], prefix: Sequence[float] = ()) -> Maps:
    """Maps of values from 0 on, each scaled by itself: its largest value alone is 255. NaN becomes 0."""
    values = maps.detach().float().cpu().nan_to_num(0.0)
    tops = values.amax(dim=(-2, -1), keepdim=True)
    tops = tops.where(tops > 0, 1.0)
    pixels = (values / tops * 255).clamp(min=0).round()
    # What is rounded up to the top would share its place: the brightest spot is where the largest value is.
    pixels = pixels.clamp(max=254).where(values < tops, pixels).byte().numpy()
    return Maps(pixels, tuple(tops.flatten().tolist()), tuple(prefix))


def signed_map(cosine: Float[Tensor, "h w"]) -> Maps:
    """A map of values from -1 to 1 as 0 to 255."""
    pixels = ((cosine.detach().float().cpu() + 1) * 127.5).clamp(0, 255).round().byte().numpy()
    return Maps(pixels, (1.0,))


def features_response(features: Float[Tensor, "h w d"]) -> Response:
    """Features as little-endian half-precision numbers, row by row."""
    values = features.detach().float().cpu().numpy().astype("<f2")
    return Response(values.tobytes(), media_type=BINARY, headers={"X-Shape": _joined(values.shape)})


def colours_response(colours: Float[Tensor, "h w 3"]) -> Response:
    """Colours of 0 … 1 as bytes."""
    values = (colours * 255).round().byte().numpy()
    return Response(values.tobytes(), media_type=BINARY, headers={"X-Shape": _joined(values.shape)})


def png_response(picture: Image.Image) -> Response:
    """A picture, packed quickly rather than tightly: it only goes through this machine."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return Response(file.getvalue(), media_type="image/png")


def read_whole(text: str) -> int | None:
    """A whole number of at most nine digits; None for anything else."""
    return int(text) if text.isascii() and text.removeprefix("-").isdecimal() and len(text) < 10 else None


def _joined(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:.6g}" for number in numbers)
