"""Which patches look alike to a model: cosine similarity within a picture and between two."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.explanations.record import Query, place_of
from vitrail.nn.tokens import Tokens


class Match(NamedTuple):
    """A patch and how alike it is.

    Attributes:
        patch: ``(row, column)``; in clips the frame comes first.
        cosine: -1 … 1.
    """

    patch: tuple[int, ...]
    cosine: float


class Pair(NamedTuple):
    """A patch of one picture and its counterpart in another.

    Attributes:
        one, other: ``(row, column)`` in either.
        cosine: of their features, -1 … 1.
    """

    one: tuple[int, ...]
    other: tuple[int, ...]
    cosine: float


def unit_patches(tokens: Tokens) -> Float[Tensor, "b n d"]:
    """The patches' features brought to length one, float32 on the CPU; a product of two of them is their cosine.

    Raises:
        VitrailError: patches were dropped.
    """
    if tokens.keep is not None:
        raise VitrailError("similarity needs every patch: these tokens keep only a part of their grid")
    return F.normalize(tokens.patches.detach().float().cpu(), dim=-1)


def patch_similarity(tokens: Tokens, query: Query, other: Tokens | None = None) -> Float[Tensor, " b *grid"]:
    """Cosine similarity of one patch with all patches, of its own picture or of another one.

    Args:
        tokens: features on a whole grid, usually ``model.features(images)``.
        query: the patch, ``(row, column)``, or any token by its place in the sequence (0 is the class token).
        other: features of the pictures that are compared, one for each of ``tokens``; its own when None.

    Raises:
        VitrailError: there is no such token, patches were dropped, or features of another width or number.
    """
    place = place_of(query, tokens.grid, tokens.prefix, tokens.values.shape[1])
    compared = tokens if other is None else other
    _require_comparable(tokens, compared)
    asked = F.normalize(tokens.values[:, place].detach().float().cpu(), dim=-1)
    cosine = (unit_patches(compared) @ asked.unsqueeze(-1)).squeeze(-1)
    return cosine.clamp(-1, 1).unflatten(1, compared.grid)


def top_patches(values: Float[Tensor, "*grid"], count: int = 5) -> list[Match]:
    """The patches of one map with the highest values, highest first; of equal ones the first in reading order.

    Args:
        values: one picture's map, such as one of :func:`patch_similarity`.
        count: how many; all of them where there are fewer.
    """
    flat = values.flatten()
    order = flat.sort(descending=True, stable=True).indices[:count].tolist()
    return [Match(_patch(place, tuple(values.shape)), float(flat[place])) for place in order]


def mutual_matches(one: Tokens, other: Tokens, count: int | None = None) -> list[Pair]:
    """Patches of two pictures that are each other's nearest neighbours, most alike first.

    Args:
        one: features of one picture, a batch of one.
        other: likewise; grids may differ.
        count: how many at most; all when None.

    Raises:
        VitrailError: more than one picture, features of another width, or dropped patches.
    """
    if len(one.values) != 1:
        raise VitrailError(f"one picture is matched with one other at a time, not {len(one.values)}")
    _require_comparable(one, other)
    cosine = unit_patches(one)[0] @ unit_patches(other)[0].T
    there, back = cosine.max(dim=1), cosine.argmax(dim=0)
    places = torch.arange(len(cosine))
    mutual = places[back[there.indices] == places]
    order = mutual[there.values[mutual].sort(descending=True, stable=True).indices][:count]
    return [
        Pair(
            _patch(int(place), one.grid),
            _patch(int(there.indices[place]), other.grid),
            float(there.values[place].clamp(-1, 1)),
        )
        for place in order
    ]


def _require_comparable(one: Tokens, other: Tokens) -> None:
    shapes = [(len(tokens.values), tokens.values.shape[-1]) for tokens in (one, other)]
    if shapes[0] != shapes[1]:
        (count, width), (others, other_width) = shapes
        raise VitrailError(
            f"{count} pictures with {width} channels cannot be compared with {others} with {other_width}: "
            "take features of one model, one picture for each"
        )


def _patch(place: int, grid: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(place, grid))
