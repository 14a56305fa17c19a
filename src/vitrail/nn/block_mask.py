"""Masks made of blocks: what is hidden cannot be guessed from the neighbours on all sides."""

from __future__ import annotations

import math
from math import prod

import torch
from jaxtyping import Bool
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.nn.tokens import Grid

ASPECT = 0.3
"""The flattest block's height over its width; the steepest is as much higher than wide."""
LEAST_SHARE = 16 / 196
"""The smallest block as a share of the grid: 16 patches of 14×14, 4 of 7×7."""
MOST_BLOCKS = 64
"""So many blocks are tried for a picture: plenty up to a share of 0.9. Nearer to 1 the last gaps are filled singly."""


def block_mask(
    batch: int,
    grid: Grid,
    count: int,
    least: int | None = None,
    aspect: float = ASPECT,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "b n"]:
    """Blocks of random area, aspect and place until enough patches are masked (BEiT, Bao et al. 2022, algorithm 1).

    A block's area is uniform between ``least`` and what is still wanted, its aspect log-uniform. Algorithm 1 ends with
    a little more than it was asked for and the authors' program with a little less; here the last block loses its
    lowest rows, so that every picture of a batch has equally many masked patches.

    Written for one picture at a time, some 50 µs each at 14×14: meant for a loader's transform as well as for a batch.

    Args:
        batch: how many pictures; each has blocks of its own.
        grid: ``(H, W)`` in patches, any.
        count: masked patches of every picture, exactly; 0 to ``H · W``.
        least: patches of the smallest block; ``16 / 196`` of the grid when None, at least 1.
        aspect: of the flattest block, above 0 and at most 1.
        generator: makes the choice repeatable, and says on which device it is drawn; None for PyTorch's own.

    Returns:
        True at masked patches, row by row, ``(batch, H · W)``.

    Raises:
        VitrailError: more patches than the grid has, or another impossible number.
    """
    patches = prod(grid)
    if len(grid) != 2 or not 0 <= count <= patches:
        raise VitrailError(f"{count} patches cannot be masked on a grid of {'×'.join(map(str, grid))}")
    if not 0.0 < aspect <= 1.0 or (least is not None and least < 1):
        raise VitrailError(f"blocks need an aspect above 0 and at most 1 and a patch or more, not {aspect} and {least}")
    smallest = max(1, round(LEAST_SHARE * patches)) if least is None else least
    device = generator.device if generator is not None else torch.device("cpu")
    masks = torch.zeros(batch, patches, dtype=torch.bool)
    for sample in range(batch):
        draws = torch.rand(MOST_BLOCKS, 4, generator=generator, device=device).tolist()
        mask = _lay_blocks((grid[0], grid[1]), count, smallest, math.log(aspect), draws)
        masks[sample] = torch.frombuffer(mask, dtype=torch.bool)
        missing = count - sum(mask)
        if missing:
            order = torch.rand(patches, generator=generator, device=device).cpu().masked_fill(masks[sample], 2.0)
            masks[sample, order.argsort()[:missing]] = True
    return masks.to(device)


def _lay_blocks(
    grid: tuple[int, int], count: int, least: int, log_aspect: float, draws: list[list[float]]
) -> bytearray:
    """Ones where blocks lie; fewer than ``count`` only when the draws are used up."""
    rows, columns = grid
    mask = bytearray(rows * columns)
    left = count
    if not left:
        return mask
    for area_draw, aspect_draw, down, across in draws:
        area = least + area_draw * max(0, left - least)
        height = min(rows, max(1, round(math.sqrt(area * math.exp(log_aspect * (2.0 * aspect_draw - 1.0))))))
        # From the height as it came out, so that a block that is too high for the grid becomes wider instead.
        width = min(columns, max(1, round(area / height)))
        top, start = int(down * (rows - height + 1)), int(across * (columns - width + 1))
        for row in range(top, top + height):
            for place in range(row * columns + start, row * columns + start + width):
                if not mask[place]:
                    mask[place] = 1
                    left -= 1
                    if not left:
                        return mask
    return mask
