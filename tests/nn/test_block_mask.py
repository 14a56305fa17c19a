"""Masks made of blocks: exactly as many patches as asked for, on any grid, and lumps rather than dust."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.nn.block_mask import block_mask


def equal_neighbours(mask: Tensor, grid: tuple[int, int]) -> float:
    """Share of the pairs of neighbours, across and down, that are both masked or both not."""
    plane = mask.view(-1, *grid)
    across, down = plane[:, :, 1:] == plane[:, :, :-1], plane[:, 1:] == plane[:, :-1]
    return torch.cat([across.flatten(), down.flatten()]).float().mean().item()


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 3), st.integers(0, 999))
def test_every_picture_has_exactly_the_count(rows: int, columns: int, share: float, batch: int, seed: int) -> None:
    count = round(share * rows * columns)
    mask = block_mask(batch, (rows, columns), count, generator=torch.Generator().manual_seed(seed))
    assert mask.shape == (batch, rows * columns) and mask.dtype == torch.bool
    assert mask.sum(dim=1).tolist() == [count] * batch


@pytest.mark.parametrize(("grid", "count"), [((14, 14), 75), ((7, 7), 20), ((10, 18), 72), ((28, 28), 314)])
def test_blocks_are_compact(grid: tuple[int, int], count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = block_mask(200, grid, count, generator=generator)
    noise = torch.rand(200, math.prod(grid), generator=generator).argsort(dim=1) < count
    # Independent patches agree with a neighbour in 52 % of the cases at this share.
    assert equal_neighbours(noise, grid) < 0.6
    assert equal_neighbours(blocks, grid) > 0.72


def test_every_place_is_masked_and_pictures_differ() -> None:
    mask = block_mask(2000, (7, 7), 20, generator=torch.Generator().manual_seed(0))
    often = mask.float().mean(dim=0)
    assert often.min() > 0.08 and often.max() < 0.75  # Corners lie in fewer blocks than the middle.
    assert often.view(7, 7).flip(0).sub(often.view(7, 7)).abs().max() < 0.09
    assert len({tuple(row) for row in mask.tolist()}) > 1500


def test_areas_and_aspects_of_a_single_block() -> None:
    """``least`` = count draws one block: as large as asked for and no flatter than the aspect."""
    mask = block_mask(300, (20, 20), 36, least=36, aspect=0.3, generator=torch.Generator().manual_seed(0))
    shapes = set()
    for plane in mask.view(300, 20, 20):
        height, width = int(plane.any(1).sum()), int(plane.any(0).sum())
        shapes.add((height, width))
        if height * width == 36:
            assert 0.25 <= height / width <= 1 / 0.25
    assert (6, 6) in shapes
    assert any(height > width for height, width in shapes) and any(height < width for height, width in shapes)


def test_torch_seed_decides() -> None:
    torch.manual_seed(3)
    first = block_mask(4, (7, 7), 20)
    torch.manual_seed(3)
    assert torch.equal(first, block_mask(4, (7, 7), 20))
    assert not torch.equal(first, block_mask(4, (7, 7), 20))


@pytest.mark.parametrize(
    ("grid", "count", "least", "aspect"),
    [
        *[((7, 7), 50, None, 0.3), ((7, 7), -1, None, 0.3), ((2, 7, 7), 5, None, 0.3)],
        *[((7, 7), 5, 0, 0.3), ((7, 7), 5, None, 0.0), ((7, 7), 5, None, 1.5)],
    ],
)
def test_impossible_numbers_are_refused(grid: tuple[int, ...], count: int, least: int | None, aspect: float) -> None:
    with pytest.raises(VitrailError, match=r"masked|blocks"):
        block_mask(2, grid, count, least, aspect)
