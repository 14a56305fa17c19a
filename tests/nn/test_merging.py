from __future__ import annotations

import pytest
import torch

from vitrail.nn import PatchMerging, Tokens


@pytest.mark.parametrize("grid", [(4, 6), (3, 5), (1, 2)])
def test_four_neighbours_become_one_column_by_column(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    merging = PatchMerging(3)
    values = torch.randn(2, grid[0] * grid[1], 3)
    merged = merging(Tokens(values, grid))
    assert merged.grid == (-(-grid[0] // 2), -(-grid[1] // 2))
    padded = torch.zeros(2, 2 * merged.grid[0], 2 * merged.grid[1], 3)
    padded[:, : grid[0], : grid[1]] = values.view(2, *grid, 3)
    four = [padded[:, down::2, across::2] for across in (0, 1) for down in (0, 1)]
    expected = merging.reduction(merging.norm(torch.cat(four, dim=-1))).flatten(1, 2)
    torch.testing.assert_close(merged.values, expected)


def test_other_tokens_than_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="every patch"):
        PatchMerging(3)(Tokens(torch.zeros(1, 5, 3), (2, 2), prefix=1))
