import pytest
import torch

from vitrail.nn import Attention, Context, RotaryGrid, Tokens
from vitrail.nn.rotary import rotate, rotate_rows


def test_scores_depend_on_the_distance_alone():
    """Equal steps on the grid turn a pair of equal vectors to the same score (RoFormer, equation 11)."""
    rotary = RotaryGrid(8).eval()((5, 5))
    query, key = (
        torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(s)).expand(1, 1, 25, 8) for s in (0, 1)
    )
    scores = (rotate(query, rotary, 0) @ rotate(key, rotary, 0).transpose(-1, -2))[0, 0]
    at = scores.view(5, 5, 5, 5)
    torch.testing.assert_close(at[0, 0, 1, 2], at[3, 2, 4, 4])
    torch.testing.assert_close(at[4, 1, 2, 0], at[3, 2, 1, 1])
    assert not torch.isclose(at[0, 0, 1, 2], at[0, 0, 2, 1])


def test_turning_keeps_lengths_and_leaves_the_prefix():
    rotary = RotaryGrid(8).eval()((2, 3))
    heads = torch.randn(2, 3, 7, 8)
    turned = rotate(heads, rotary, 1)
    torch.testing.assert_close(turned.norm(dim=-1), heads.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], heads[:, :, 0])
    assert not torch.isclose(turned[:, :, 1:], heads[:, :, 1:]).all()


def test_angles_follow_the_equation():
    cos, sin = RotaryGrid(8, base=100.0).eval()((2, 4))
    row, column = 1, 2
    y, x = 2 * (row + 0.5) / 2 - 1, 2 * (column + 0.5) / 4 - 1
    periods = torch.tensor([1.0, 10.0])
    expected = 2 * torch.pi * torch.cat([y / periods, x / periods]).tile(2)
    torch.testing.assert_close(cos[row * 4 + column], expected.cos())
    torch.testing.assert_close(sin[row * 4 + column], expected.sin())


def test_disturbances_come_only_in_training():
    for options in ({"shift": 0.5}, {"jitter": 2.0}, {"rescale": 2.0}):
        part = RotaryGrid(8, **options)
        assert not torch.equal(part((3, 3)).cos, part((3, 3)).cos)
        part.eval()
        assert torch.equal(part((3, 3)).cos, part((3, 3)).cos)


def test_attention_turns_queries_and_keys_but_not_values():
    torch.manual_seed(0)
    attention = Attention(16, 2).eval()
    tokens = Tokens(torch.randn(1, 5, 16), (2, 2), prefix=1)
    rotary = RotaryGrid(8).eval()((2, 2))
    plain = attention.project(tokens, Context())
    turned = attention.project(tokens, Context(rotary=rotary))
    assert torch.equal(plain[2], turned[2])
    torch.testing.assert_close(turned[0], rotate(plain[0], rotary, 1))
    torch.testing.assert_close(turned[1], rotate(plain[1], rotary, 1))
    rows = attention.weights(tokens, Context(rotary=rotary))
    assert not torch.allclose(rows, attention.weights(tokens))


def test_a_head_must_split_into_four():
    with pytest.raises(ValueError, match="4 divides"):
        RotaryGrid(6)


@pytest.mark.parametrize("prefix", [0, 3])
@pytest.mark.parametrize("keep", [None, torch.tensor([[5, 0, 3, 1], [1, 2, 4, 0]])])
def test_chosen_rows_are_turned_as_in_the_whole_sequence(prefix, keep):
    rotary = RotaryGrid(8).eval()((2, 3))
    count = prefix + (6 if keep is None else keep.shape[1])
    heads = torch.randn(2, 2, count, 8)
    rows = torch.tensor([count - 1, 0, prefix, 1])
    whole = rotate(heads, rotary, prefix, keep)
    torch.testing.assert_close(rotate_rows(heads[:, :, rows], rotary, prefix, keep, rows), whole[:, :, rows])
    assert torch.equal(rotate_rows(heads, rotary, prefix, keep), whole)
