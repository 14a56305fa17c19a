import math

import pytest
import torch
import torch.nn.functional as F

from vitrail.nn.position import (
    RESIZES,
    resize_bicubic_offset,
    resize_positions,
    sincos_1d,
    sincos_2d,
)


def test_the_same_grid_gives_the_same_table_untouched():
    table = torch.randn(1, 1 + 12, 8)
    assert resize_positions(table, (3, 4), (3, 4), RESIZES["bicubic"]) is table


@pytest.mark.parametrize("name", RESIZES)
def test_rows_before_the_patches_are_kept_and_the_rest_is_resized_on_its_grid(name):
    table = torch.randn(1, 2 + 12, 8)
    resized = resize_positions(table, (3, 4), (5, 2), RESIZES[name])
    assert resized.shape == (1, 2 + 10, 8)
    assert torch.equal(resized[:, :2], table[:, :2])
    alone = RESIZES[name](table[:, 2:].transpose(1, 2).unflatten(2, (3, 4)), (5, 2))
    assert torch.equal(resized[:, 2:], alone.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("name", RESIZES)
def test_rows_and_columns_are_not_mixed_up(name):
    """A table that depends on the row alone still does after resizing to a wide grid."""
    rows = torch.arange(4.0)[:, None].expand(4, 4).reshape(1, 16, 1)
    resized = resize_positions(rows, (4, 4), (4, 8), RESIZES[name]).view(4, 8)
    assert torch.allclose(resized, resized[:, :1].expand(4, 8), atol=1e-5)
    assert (resized[1:] > resized[:-1]).all()


def test_the_variants_differ_so_a_checkpoint_must_name_its_own():
    table = torch.randn(1, 6, 7, 7)
    results = [resize(table, (10, 10)) for resize in RESIZES.values()]
    for i, first in enumerate(results):
        for second in results[:i]:
            assert (first - second).abs().max() > 1e-3


def test_the_offset_variant_samples_by_the_scaled_factor():
    table = torch.randn(1, 2, 37, 37)
    ours = resize_bicubic_offset(table, (16, 16))
    theirs = F.interpolate(table, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    assert ours.shape[-2:] == (16, 16)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("size", range(1, 60))
def test_the_offset_variant_reaches_every_target_size(size):
    assert resize_bicubic_offset(torch.zeros(1, 1, 37, 37), (size, size)).shape[-2:] == (size, size)


def test_sines_and_cosines_by_hand():
    table = sincos_1d(4, torch.tensor([0.0, 3.0]))
    expected = [math.sin(3), math.sin(3 / 100), math.cos(3), math.cos(3 / 100)]
    assert table[0].tolist() == [0, 0, 1, 1]
    assert table[1].tolist() == pytest.approx(expected)


def test_two_dimensions_put_the_column_first_and_prefix_rows_are_zero():
    table = sincos_2d(8, (2, 3), prefix=1)[0]
    assert table.shape == (7, 8)
    assert table[0].abs().sum() == 0
    patch = table[1 + 1 * 3 + 2]  # row 1, column 2
    torch.testing.assert_close(patch[:4], sincos_1d(4, torch.tensor([2.0]))[0].float())
    torch.testing.assert_close(patch[4:], sincos_1d(4, torch.tensor([1.0]))[0].float())
