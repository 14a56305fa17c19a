"""Relative positions by row and column: by their equation, and on other grids."""

from __future__ import annotations

import pytest
import torch

from vitrail.nn import Attention, DecomposedPositions, FourierPositions, LayerNorm2d, Tokens
from vitrail.nn.decomposed import distances, resize_distances


def filled(grid: tuple[int, int], head_dim: int = 4) -> DecomposedPositions:
    torch.manual_seed(0)
    part = DecomposedPositions(grid, head_dim)
    for table in part.parameters():
        torch.nn.init.normal_(table)
    return part


def test_bias_is_the_query_times_the_rows_of_both_distances() -> None:
    part, query = filled((2, 3)), torch.randn(2, 2, 6, 4)
    bias = part(query, Tokens(torch.zeros(2, 6, 8), (2, 3)))
    for q in range(6):
        for k in range(6):
            down, across = q // 3 - k // 3, q % 3 - k % 3
            expected = query[:, :, q] @ (part.rel_pos_h[down + 1] + part.rel_pos_w[across + 2])
            torch.testing.assert_close(bias[:, :, q, k], expected)


def test_tables_start_at_zero_and_get_gradients() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2, position_bias=DecomposedPositions((2, 3), 4))
    tokens = Tokens(torch.randn(1, 6, 8), (2, 3))
    plain = Attention(8, 2)
    plain.load_state_dict(attention.state_dict(), strict=False)
    torch.testing.assert_close(attention(tokens), plain(tokens))
    attention(tokens).square().sum().backward()
    assert all(table.grad is not None and table.grad.any() for table in attention.position_bias.parameters())


def test_another_grid_resizes_the_tables_linearly_about_their_middle() -> None:
    table = torch.arange(-3.0, 4.0)[:, None]  # Distances on an axis of 4 places.
    assert resize_distances(table, 4) is table
    larger = resize_distances(table, 8)
    assert larger.shape == (15, 1) and larger[7] == 0
    torch.testing.assert_close(larger[1:-1].diff(dim=0), torch.full((12, 1), 7 / 15))
    assert distances(table, 3).shape == (3, 3, 1)
    assert (distances(table, 3).diagonal() == 0).all()


def test_queries_come_before_keys() -> None:
    """The first place, looking at the last, looks back over the most negative distance."""
    table = torch.arange(-2.0, 3.0)[:, None]
    assert distances(table, 3)[0, 2] == -2 and distances(table, 3)[2, 0] == 2


@pytest.mark.parametrize(
    "tokens",
    [Tokens(torch.zeros(1, 7, 8), (2, 3), prefix=1), Tokens(torch.zeros(1, 2, 8), (2, 3), keep=torch.tensor([[0, 3]]))],
)
def test_other_tokens_than_the_grids_are_refused(tokens: Tokens) -> None:
    with pytest.raises(ValueError, match="every patch"):
        filled((2, 3))(torch.zeros(1, 2, tokens.values.shape[1], 4), tokens)


def test_fourier_positions_are_sines_and_cosines_of_random_frequencies() -> None:
    part = FourierPositions(6)
    place = torch.tensor([0.25, 0.75])
    angles = 2 * torch.pi * ((2 * place - 1) @ part.frequencies)
    torch.testing.assert_close(part(place), torch.cat([angles.sin(), angles.cos()]))
    assert "frequencies" in part.state_dict() and not list(part.parameters())


def test_the_grids_positions_are_those_of_the_patches_middles() -> None:
    part = FourierPositions(6)
    table = part.grid((2, 3))
    assert table.shape == (1, 6, 6)
    torch.testing.assert_close(table[0, 4], part(torch.tensor([1.5 / 3, 1.5 / 2])))


def test_fourier_positions_stay_exact_in_half_precision() -> None:
    part = FourierPositions(8)
    places = torch.tensor([[500.5, 300.5], [501.5, 300.5]]) / 1024
    exact = part(places)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(part(places), exact)


def test_layer_norm_of_a_map_is_that_of_every_places_channels() -> None:
    norm = LayerNorm2d(5)
    torch.nn.init.normal_(norm.weight)
    maps = torch.randn(2, 5, 3, 4)
    expected = torch.nn.functional.layer_norm(maps[:, :, 1, 2], (5,), norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(norm(maps)[:, :, 1, 2], expected)


def test_chosen_rows_are_rows_of_the_whole_bias() -> None:
    part, query = filled((2, 3)), torch.randn(2, 2, 12, 4)
    tokens, rows = Tokens(torch.zeros(2, 12, 8), (3, 4)), torch.tensor([11, 0, 6])
    expected = part(query, tokens)[:, :, rows]
    torch.testing.assert_close(part(query[:, :, rows], tokens, rows), expected)
