"""Pixels of patches: cut and laid out, normalised, and the loss over those that were not seen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitrail.contracts import VitrailError
from vitrail.heads.pixels import (
    PixelDecoder,
    masked_error,
    normalise_bands,
    normalise_patches,
    patchify,
    unpatchify,
)
from vitrail.nn import Attention, Block, Mlp, Tokens


@pytest.mark.parametrize(("sides", "patch"), [((8, 12), (4, 2)), ((4, 8, 6), (2, 4, 3)), ((2, 4, 4), (1, 4, 2))])
def test_patches_are_the_pixels_of_their_place_and_can_be_laid_out_again(sides: tuple, patch: tuple) -> None:
    images = torch.randn(2, 3, *sides)
    rows = patchify(images, patch)
    grid = tuple(side // step for side, step in zip(sides, patch, strict=True))
    number = 0
    for place in torch.cartesian_prod(*(torch.arange(n) for n in grid)).tolist():
        box = images[(slice(None), slice(None), *(slice(p * s, p * s + s) for p, s in zip(place, patch, strict=True)))]
        assert torch.equal(rows[:, number], box.movedim(1, -1).flatten(1))
        number += 1
    assert number == rows.shape[1]
    assert torch.equal(unpatchify(rows, grid, patch), images)


def test_sides_that_patches_do_not_divide_are_named() -> None:
    with pytest.raises(VitrailError, match="4×4 do not divide 8×10"):
        patchify(torch.zeros(1, 3, 8, 10), (4, 4))
    with pytest.raises(VitrailError, match="2×4×4 do not divide 8×8"):
        patchify(torch.zeros(1, 3, 8, 8), (2, 4, 4))


def test_normalised_patches_have_mean_zero_and_variance_one() -> None:
    rows = torch.randn(2, 5, 48) * 3 + 7
    whole, bands = normalise_patches(rows), normalise_bands(rows, 3)
    torch.testing.assert_close(whole.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.var(-1), torch.ones(2, 5), atol=1e-4, rtol=0)
    for band in range(3):
        torch.testing.assert_close(bands[..., band::3].mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
        torch.testing.assert_close(bands[..., band::3].std(-1), torch.ones(2, 5), atol=1e-4, rtol=0)
    assert bool(normalise_patches(torch.ones(1, 1, 12)).isfinite().all())
    assert bool(normalise_bands(torch.ones(1, 1, 12), 3).isfinite().all())


def test_the_error_counts_hidden_patches_only() -> None:
    predictions, targets = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    keep = torch.tensor([[1], [2]])
    targets[0, 1] = targets[1, 2] = 100.0
    assert float(masked_error(predictions, targets, keep)) == 0.0
    targets[0, 0] = 2.0
    assert float(masked_error(predictions, targets, keep)) == 1.0
    with pytest.raises(VitrailError, match="no patch was masked"):
        masked_error(predictions, targets, torch.arange(3).expand(2, 3))


def test_the_decoder_predicts_by_place_whatever_the_order_of_what_is_seen() -> None:
    torch.manual_seed(0)
    block = Block(8, Attention(8, 2), Mlp(8, 16))
    decoder = PixelDecoder(nn.Linear(6, 8), [block], nn.LayerNorm(8), pixels=5)
    nn.init.normal_(decoder.mask_token)
    values, positions = torch.randn(1, 3, 6), torch.randn(1, 7, 8)
    prefix = torch.randn(1, 1, 6)
    seen = Tokens(values, (2, 3), keep=torch.tensor([[4, 0, 1]])).prepend(prefix)
    other = Tokens(values[:, [2, 0, 1]], (2, 3), keep=torch.tensor([[1, 4, 0]])).prepend(prefix)
    predictions = decoder(seen, positions)
    assert predictions.shape == (1, 6, 5)
    torch.testing.assert_close(decoder(other, positions), predictions)
    predictions.sum().backward()
    assert decoder.mask_token.grad is not None and bool(decoder.mask_token.grad.any())
