"""Pictures with sentences that describe them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.sources.base import Source
from vitrail.data.sources.opening import Splits, split_source
from vitrail.data.sources.table import CsvSource
from vitrail.data.undecoded import Undecoded

CAPTION = "caption"
"""The extra that holds a caption's token numbers."""

Tokenize = Callable[[Sequence[str]], Int[Tensor, "t l"]]


class CaptionedSource(Source):
    """The pictures of a table with their captions as token numbers.

    All captions are tokenized at once, before any worker is forked: a tokenizer that has used threads must not be.

    Args:
        table: opened with ``captioned=True``.
        tokenize: sentences to rows of token numbers.

    Raises:
        VitrailError: the table was opened without captions.
    """

    def __init__(self, table: CsvSource, tokenize: Tokenize) -> None:
        if not table.captions:
            raise VitrailError(f"{table.path}: was opened without its captions")
        self.table = table
        self.tokens = tokenize(table.captions).to(torch.int32)
        self.classes, self.cacheable = table.classes, table.cacheable
        self.labels, self.picture_ids = table.labels, table.picture_ids

    def name(self, index: int) -> str:
        """The picture's path."""
        return self.table.name(index)

    def picture(self, index: int) -> Image.Image:
        """The decoded file."""
        return self.table.picture(index)

    def pixels(self, index: int) -> UInt8[Tensor, "c h w"]:
        """The table's pixels."""
        return self.table.pixels(index)

    def open(self, index: int) -> Undecoded:
        """The table's file."""
        return self.table.open(index)

    def extras(self, index: int) -> Mapping[str, Tensor]:
        """The caption's token numbers, ``(L,)`` int64."""
        return {CAPTION: self.tokens[index].long()}

    def describe(self) -> dict[str, Any]:
        """The table's description."""
        return {**self.table.describe(), "captions": True}


def open_captions(
    spec: str | os.PathLike[str], tokenize: Tokenize, *, val_fraction: float = 0.25, seed: int = 0
) -> Splits:
    """Pairs of pictures and captions from a CSV file, to train on and held out.

    Without a column ``split`` a seeded share of the pictures is held out, each with all of its captions.

    Args:
        spec: a ``.csv`` file with the columns ``image`` and ``caption``, and ``split`` if wanted.
        tokenize: sentences to rows of token numbers.
        val_fraction: share held out.
        seed: of that choice.

    Raises:
        VitrailError: no such file, columns missing, a row without caption, pictures that do not exist.
    """
    whole = CsvSource(spec, labelled=False, captioned=True)
    if not whole.has_split:
        return split_source(CaptionedSource(whole, tokenize), val_fraction, seed)
    train, val = (CsvSource(spec, part, labelled=False, captioned=True) for part in ("train", "val"))
    return Splits(CaptionedSource(train, tokenize), CaptionedSource(val, tokenize))
