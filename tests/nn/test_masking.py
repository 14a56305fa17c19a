"""Which patches are seen: how many, how even, how repeatable; and the grid filled up again."""

from __future__ import annotations

import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.nn.masking import fill_dropped, keep_of, mask_of, random_keep, tube_keep
from vitrail.nn.tokens import Tokens, take_patches


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def test_random_keep_draws_a_quarter_for_every_sample_by_itself() -> None:
    keep = random_keep(64, (14, 14), 0.75, seeded(0))
    assert keep.shape == (64, 49) and keep.dtype == torch.int64
    assert bool((keep[:, 1:] > keep[:, :-1]).all()), "ascending, none twice"
    assert int(keep.min()) == 0 and int(keep.max()) == 195
    assert len({tuple(row.tolist()) for row in keep}) == 64
    assert torch.equal(keep, random_keep(64, (14, 14), 0.75, seeded(0)))
    assert not torch.equal(keep, random_keep(64, (14, 14), 0.75, seeded(1)))


def test_random_keep_prefers_no_place() -> None:
    counts = torch.zeros(16)
    keep = random_keep(4000, (4, 4), 0.75, seeded(3))
    counts.index_add_(0, keep.flatten(), torch.ones(keep.numel()))
    # 4000 draws at a quarter: mean 1000, deviation 27.
    assert float((counts - 1000).abs().max()) < 140


@pytest.mark.parametrize(("count", "ratio", "kept"), [(196, 0.75, 49), (256, 0.75, 64), (10, 0.9, 1), (10, 0.99, 1)])
def test_shares_are_not_lost_to_rounding(count: int, ratio: float, kept: int) -> None:
    assert random_keep(1, (count, 1), ratio).shape == (1, kept)


def test_tubes_keep_the_same_places_in_every_frame() -> None:
    keep = tube_keep(3, (8, 14, 14), 0.9, seeded(0))
    # 176 of 196 are dropped in each of the eight frames of tubelets, as the authors have it: 160 of 1568 are seen.
    assert keep.shape == (3, 160)
    frames = keep.unflatten(1, (8, 20))
    assert torch.equal(frames % 196, (frames[:, :1] % 196).expand(-1, 8, -1))
    assert torch.equal(frames // 196, torch.arange(8)[None, :, None].expand(3, 8, 20))
    assert not torch.equal(keep[0], keep[1])


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 2.0])
def test_shares_that_leave_nothing_are_refused(ratio: float) -> None:
    with pytest.raises(VitrailError, match="share"):
        random_keep(1, (2, 2), ratio)
    with pytest.raises(VitrailError, match="share"):
        tube_keep(1, (2, 2, 2), ratio)


def test_masks_and_places_say_the_same() -> None:
    keep = random_keep(5, (4, 6), 0.5, seeded(0))
    mask = mask_of(keep, 24)
    assert mask.sum(dim=1).tolist() == [12] * 5
    assert not bool(mask.gather(1, keep).any())
    assert torch.equal(keep_of(mask), keep)
    uneven = torch.tensor([[True, False, False], [True, True, False]])
    with pytest.raises(VitrailError, match=r"equally many patches, not \[1, 2\]"):
        keep_of(uneven)


def test_filled_grid_has_every_patch_at_its_place() -> None:
    whole = torch.randn(2, 6, 4)
    keep = torch.tensor([[5, 0], [2, 3]])
    tokens = Tokens(take_patches(whole, keep), (2, 3), keep=keep).prepend(torch.full((2, 1, 4), 9.0))
    filled = fill_dropped(tokens, torch.full((1, 1, 4), 7.0))
    assert filled.keep is None and filled.prefix == 1 and filled.grid == (2, 3)
    assert torch.equal(filled.prefix_values, torch.full((2, 1, 4), 9.0))
    for sample, places in enumerate(keep.tolist()):
        for place in range(6):
            wanted = whole[sample, place] if place in places else torch.full((4,), 7.0)
            assert torch.equal(filled.patches[sample, place], wanted)
    complete = Tokens(whole, (2, 3))
    assert fill_dropped(complete, torch.zeros(1, 1, 4)) is complete
