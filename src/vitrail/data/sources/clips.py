"""Clips below a folder, each as a number of its frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.clip import frame_numbers, list_clips, open_clip
from vitrail.data.files import BrokenPicture
from vitrail.data.order import split_order
from vitrail.data.preprocess import to_picture
from vitrail.data.sources.base import PackedNames, Source
from vitrail.data.sources.opening import Splits, part_folders


class ClipSource(Source):
    """Unlabelled clips by path; :meth:`pixels` gives ``(T, C, H, W)``.

    Args:
        paths: the clips, e.g. from :func:`vitrail.data.list_clips`.
        frames: how many are taken of each.
        stride: frames of the clip from one that is taken to the next; less where the clip is too short.
        drawn: where in the clip they begin is drawn from torch's generator, anew each time; False: in the middle.
        channels: 3 (RGB) or 1 (grey).
        root: what :meth:`describe` gives as their origin.

    Raises:
        VitrailError: no clips, or numbers below 1.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        frames: int = 16,
        stride: int = 4,
        drawn: bool = True,
        channels: int = 3,
        root: str = "",
    ) -> None:
        if not paths:
            raise VitrailError("A list of no clips was given as a data set")
        if frames < 1 or stride < 1:
            raise VitrailError(f"frames and stride must be at least 1, not {frames} and {stride}")
        self.paths = PackedNames(os.fspath(path) for path in paths)
        self.frames, self.stride, self.drawn = frames, stride, drawn
        self.cacheable = False
        self.channels = channels
        self.root = root
        self.classes: tuple[str, ...] = ()
        self.labels = np.full(len(self.paths), -1, dtype=np.int64)

    def name(self, index: int) -> str:
        """The path."""
        return self.paths[index]

    def picture(self, index: int) -> Image.Image:
        """The frame in the middle."""
        return to_picture(self._read(index, 1, 1, 0.5)[0])

    def pixels(self, index: int) -> UInt8[Tensor, "t c h w"]:
        """The frames that are taken.

        Raises:
            BrokenPicture: the clip cannot be read, is too short, or changes its size.
        """
        start = float(torch.rand(())) if self.drawn else 0.5
        return self._read(index, self.frames, self.stride, start)

    def _read(self, index: int, frames: int, stride: int, start: float) -> Tensor:
        clip = open_clip(self.paths[index], self.channels)
        try:
            numbers = frame_numbers(len(clip), frames, stride, start)
        except ValueError as error:
            raise BrokenPicture(clip.name, f"too short: {error}") from None
        return clip.frames(numbers)

    def describe(self) -> dict[str, Any]:
        """Kind, origin, length, frames and stride."""
        return {
            "kind": "clips",
            "root": self.root,
            "length": len(self),
            "frames": self.frames,
            "stride": self.stride,
        }


def open_clips(
    root: str | os.PathLike[str],
    frames: int,
    stride: int,
    channels: int = 3,
    val_fraction: float = 0.25,
    seed: int = 0,
) -> Splits:
    """The clips below a folder, to train on and held out: those of its two parts, or else a seeded share.

    The parts are ``train/``, and ``val/``, ``valid/``, ``validation/`` or ``test/``, as pictures have them.

    Args:
        root: see :func:`vitrail.data.list_clips`.
        frames: how many are taken of each.
        stride: from one to the next.
        channels: 3 (RGB) or 1 (grey).
        val_fraction: share held out where the folder has no such parts.
        seed: of that choice.

    Raises:
        VitrailError: no clips, or a single one that cannot be both trained on and held out.
    """
    parts = part_folders(Path(root))
    if parts is not None:
        chosen = [list_clips(part) for part in parts]
    else:
        clips = list_clips(root)
        if len(clips) < 2:
            raise VitrailError(f"{clips[0]}: is the only clip there; one to train on and one to hold out are needed")
        order = split_order(np.arange(len(clips)), seed)
        held = set(order[: min(max(1, round(len(clips) * val_fraction)), len(clips) - 1)].tolist())
        chosen = [[clip for n, clip in enumerate(clips) if (n in held) == val] for val in (False, True)]
    train, val = (
        ClipSource(paths, frames, stride, drawn, channels, os.fspath(root))
        for paths, drawn in zip(chosen, (True, False), strict=True)
    )
    return Splits(train, val)
