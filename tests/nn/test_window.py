from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vitrail.nn import Attention, Context, Mixer, Tokens, WindowMixer

DIM = 8


class Echo(Mixer):
    """Gives back what it got, and keeps it."""

    def forward(self, tokens, context=None):
        self.tokens, self.mask = tokens, context.mask
        return tokens.values

    def weights(self, tokens, context=None, queries=None):
        count = tokens.values.shape[1]
        return torch.eye(count).expand(len(tokens.values), 1, count, count)


def grid_tokens(height: int, width: int, batch: int = 2) -> Tokens:
    values = torch.randn(batch, height * width, DIM, generator=torch.Generator().manual_seed(0))
    return Tokens(values, (height, width))


def attention() -> Attention:
    torch.manual_seed(0)
    return Attention(DIM, 2).eval()


@given(st.integers(1, 9), st.integers(1, 9), st.tuples(st.integers(1, 4), st.integers(1, 4)), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_cutting_and_joining_gives_back_every_token_in_its_place(height, width, window, shift):
    shifts = tuple(min(shift, side - 1) for side in window)
    tokens = grid_tokens(height, width)
    assert torch.equal(WindowMixer(Echo(), window, shifts)(tokens), tokens.values)


def test_a_window_sees_its_own_square_row_by_row():
    echo = Echo()
    values = torch.arange(24.0).view(1, 24, 1).repeat(1, 1, DIM)
    WindowMixer(echo, (2, 3))(Tokens(values, (4, 6)))
    assert echo.tokens.grid == (2, 3) and echo.tokens.values.shape == (4, 6, DIM)
    assert echo.tokens.values[1, :, 0].tolist() == [3, 4, 5, 9, 10, 11]
    assert echo.mask is None


def test_tokens_of_other_windows_change_nothing():
    mixer = WindowMixer(attention(), (2, 2))
    tokens = grid_tokens(4, 4, batch=1)
    other = tokens.values.clone()
    other[0, 15] += 1.0  # bottom right
    changed = (mixer(tokens) != mixer(tokens.with_values(other)))[0].any(-1)
    assert changed.nonzero().flatten().tolist() == [10, 11, 14, 15]


@pytest.mark.parametrize("height,width", [(4, 4), (5, 7), (6, 4)])
def test_shifted_windows_are_attention_with_the_mask_written_plainly(height, width):
    """Two places see each other when the shifted cut puts them in one window without going around the border."""
    inner, window, shift = attention(), 2, 1
    tokens = grid_tokens(height, width)
    padded = [-(-side // window) * window for side in (height, width)]

    def cell(place: int, size: int) -> int:
        return (place + window - shift) // window if size > window else place // window

    rows, columns = torch.arange(height * width) // width, torch.arange(height * width) % width
    cells = [(cell(int(r), padded[0]), cell(int(c), padded[1])) for r, c in zip(rows, columns, strict=True)]
    allowed = torch.tensor([[one == other for other in cells] for one in cells])[None, None]
    mixed = WindowMixer(inner, (window, window), (shift, shift))(tokens)
    expected = inner(tokens, Context(mask=allowed))

    def full(down: int, across: int) -> bool:
        return _whole(down, padded[0], height, window, shift) and _whole(across, padded[1], width, window, shift)

    whole = [i for i, cell_of_place in enumerate(cells) if full(*cell_of_place)]
    torch.testing.assert_close(mixed[:, whole], expected[:, whole], atol=1e-6, rtol=1e-5)
    assert whole


def _whole(cell: int, padded: int, size: int, window: int, shift: int) -> bool:
    """Whether a cell of the shifted cut holds no filled-up places, which take part and are not in the plain mask."""
    return min(padded, (cell + 1) * window - (window - shift)) <= size


def test_weights_are_rows_over_the_whole_sequence():
    mixer = WindowMixer(attention(), (2, 2), (1, 1))
    tokens = grid_tokens(4, 6)
    rows = mixer.weights(tokens)
    assert rows.shape == (2, 2, 24, 24)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 2, 24))
    assert torch.equal(mixer.weights(tokens, queries=torch.tensor([7, 0])), rows[:, :, [7, 0]])
    value = mixer.mixer.project(tokens, Context())[2]
    mixed = mixer.mixer.proj((rows @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, mixer(tokens), atol=1e-6, rtol=1e-5)


def test_filled_up_places_take_their_share_and_are_not_shown():
    rows = WindowMixer(attention(), (2, 2)).weights(grid_tokens(3, 4))
    sums = rows.sum(-1)[:, :, 8:]
    assert (sums < 0.99).all() and (sums > 0.0).all()


def test_cost_grows_with_the_number_of_patches():
    """The longest sequence that the inner mixer sees stays the window's."""
    echo = Echo()
    for side in (8, 16):
        WindowMixer(echo, (4, 4))(grid_tokens(side, side))
        assert echo.tokens.values.shape[1] == 16
    assert len(echo.tokens.values) == 2 * 16


def test_what_windows_cannot_do_is_refused():
    with pytest.raises(ValueError, match="cannot be shifted"):
        WindowMixer(attention(), (2, 2), (2, 0))
    tokens = grid_tokens(2, 2)._replace(prefix=1)
    with pytest.raises(ValueError, match="every patch"):
        WindowMixer(attention(), (2, 2))(tokens)


def test_gradients_flow_through_shifted_windows():
    mixer = WindowMixer(attention(), (2, 2), (1, 1))
    mixer(grid_tokens(3, 5)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())
    assert isinstance(mixer, nn.Module)


@pytest.mark.parametrize("shift", [(0, 0), (1, 2)])
def test_chosen_rows_mix_their_own_windows_alone(shift):
    """By what the inner mixer is given: as many windows as the queries stand in, whatever the grid."""
    mixer, tokens = WindowMixer(attention(), (3, 3), shift), grid_tokens(7, 11)
    every = mixer.weights(tokens)
    for queries, windows in (([0], 1), ([76], 1), ([0, 1, 12], 1 if shift == (0, 0) else 2), ([0, 76], 2)):
        with mock.patch.object(mixer.mixer, "weights", wraps=mixer.mixer.weights) as inner:
            rows = mixer.weights(tokens, queries=torch.tensor(queries))
        assert inner.call_args.args[0].values.shape[:2] == (2 * windows, 9)
        torch.testing.assert_close(rows, every[:, :, queries])
