from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitrail.nn import Attention, RelativePositionBias, Tokens
from vitrail.nn.relative import BIAS_RESIZES, resize_bias, resize_bilinear

HEADS = 2


def module(grid: tuple[int, int], prefix: bool = False, **options: object) -> RelativePositionBias:
    torch.manual_seed(0)
    made = RelativePositionBias(grid, HEADS, prefix, **options)
    torch.nn.init.normal_(made.relative_position_bias_table)
    return made


@pytest.mark.parametrize("grid", [(2, 3), (4, 1), (3, 3)])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_every_pair_reads_the_row_of_its_distance(grid: tuple[int, int], prefix: int) -> None:
    """Equation 4 of Swin written plainly, with BEiT's three rows behind the distances."""
    height, width = grid
    made = module(grid, prefix=prefix > 0)
    table = made.relative_position_bias_table
    distances = (2 * height - 1) * (2 * width - 1)
    count = prefix + height * width
    expected = torch.empty(HEADS, count, count)
    for i in range(count):
        for j in range(count):
            if i < prefix or j < prefix:
                row = distances + (2 if i < prefix and j < prefix else 0 if i < prefix else 1)
            else:
                (y, x), (v, u) = divmod(i - prefix, width), divmod(j - prefix, width)
                row = (y - v + height - 1) * (2 * width - 1) + (x - u + width - 1)
            expected[:, i, j] = table[row]
    assert torch.equal(made.bias(grid, prefix), expected)


def test_it_is_the_position_bias_of_attention() -> None:
    torch.manual_seed(0)
    bias = module((2, 2), prefix=True)
    attention = Attention(8, HEADS, position_bias=bias).eval()
    tokens = Tokens(torch.randn(3, 5, 8), (2, 2), prefix=1)
    query, key, value = attention.qkv(tokens.values).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-2, -1) / 2 + bias.bias((2, 2), 1)
    expected = attention.proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(tokens), expected)
    torch.testing.assert_close(attention.weights(tokens), scores.softmax(-1))


def test_dropped_patches_keep_the_distances_of_the_others() -> None:
    bias = module((3, 4), prefix=True)
    keep = torch.tensor([[7, 0, 3], [1, 11, 2]])
    full = bias.bias((3, 4), 1)
    query = torch.zeros(2, HEADS, 4, 4)
    found = bias(query, Tokens(torch.zeros(2, 4, 8), (3, 4), prefix=1, keep=keep))
    for sample, places in enumerate(keep.tolist()):
        rows = torch.tensor([0, *(place + 1 for place in places)])
        assert torch.equal(found[sample], full[:, rows][:, :, rows])


def test_one_module_in_two_attentions_is_one_table() -> None:
    shared = module((2, 2))
    first, second = (Attention(8, HEADS, position_bias=shared) for _ in range(2))
    tokens = Tokens(torch.randn(1, 4, 8), (2, 2))
    (first(tokens) + second(tokens)).sum().backward()
    both = torch.nn.ModuleList([first, second])
    assert sum("table" in name for name, _ in both.named_parameters()) == 1
    assert shared.relative_position_bias_table.grad.abs().sum() > 0


def test_prefix_tokens_without_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows for 1"):
        module((2, 2)).bias((2, 2), 1)


@pytest.mark.parametrize("variant", BIAS_RESIZES)
@pytest.mark.parametrize("new", [(2, 5), (6, 6), (1, 1)])
def test_another_grid_gets_the_table_resized_and_the_last_rows_as_they_are(variant: str, new: tuple[int, int]) -> None:
    bias = module((3, 4), prefix=True, resize=BIAS_RESIZES[variant])
    table = bias.relative_position_bias_table
    resized = resize_bias(table, (3, 4), new, BIAS_RESIZES[variant])
    assert resized.shape == ((2 * new[0] - 1) * (2 * new[1] - 1) + 3, HEADS)
    assert torch.equal(resized[-3:], table[-3:])
    other = module(new, prefix=True)
    other.relative_position_bias_table.data = resized
    assert torch.equal(bias.bias(new, 1), other.bias(new, 1))
    assert resize_bias(table, (3, 4), (3, 4), BIAS_RESIZES[variant]) is table


@pytest.mark.parametrize("variant", BIAS_RESIZES)
def test_the_distance_zero_stays_in_the_middle(variant: str) -> None:
    table = torch.zeros(25, 1)
    table[12] = 1.0
    resized = resize_bias(table, (3, 3), (5, 7), BIAS_RESIZES[variant]).view(9, 13)
    assert resized.argmax() == 4 * 13 + 6
    torch.testing.assert_close(resized, resized.flip(0, 1))


@pytest.mark.parametrize(
    ("old", "new", "extra"),
    [((7, 7), (12, 12), 0), ((14, 14), (24, 24), 3), ((12, 12), (7, 7), 0), ((4, 6), (6, 3), 3)],
)
def test_geometric_resize_equals_timm(old: tuple[int, int], new: tuple[int, int], extra: int) -> None:
    layers = pytest.importorskip("timm.layers")
    rows, wanted = ((2 * h - 1) * (2 * w - 1) + extra for h, w in (old, new))
    table = torch.randn(rows, 3)
    expected = layers.resize_rel_pos_bias_table(table, new, (wanted, 3), old)
    torch.testing.assert_close(resize_bias(table, old, new, BIAS_RESIZES["geometric"]), expected, atol=1e-5, rtol=0)


def test_short_distances_keep_their_values_under_the_geometric_resize() -> None:
    table = torch.randn(13 * 13, 1)
    resized = resize_bias(table, (7, 7), (12, 12), BIAS_RESIZES["geometric"]).view(23, 23)
    torch.testing.assert_close(resized[10:13, 10:13], table.view(13, 13)[5:8, 5:8])


def test_half_precision_tables_are_resized_in_float32() -> None:
    table = torch.randn(25, 2)
    half = resize_bias(table.bfloat16(), (3, 3), (4, 4), resize_bilinear)
    expected = F.interpolate(
        table.bfloat16().float().T.view(1, 2, 5, 5), (7, 7), mode="bilinear", align_corners=False
    ).bfloat16()
    assert torch.equal(half, expected[0].flatten(1).T)


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("keep", [None, torch.tensor([[5, 0, 3, 1], [1, 2, 4, 0]])])
def test_chosen_rows_are_rows_of_the_whole_bias(prefix: int, keep: torch.Tensor | None) -> None:
    part = RelativePositionBias((2, 3), 4, prefix=prefix > 0)
    torch.nn.init.normal_(part.relative_position_bias_table)
    count = prefix + (6 if keep is None else keep.shape[1])
    tokens = Tokens(torch.zeros(2, count, 8), (2, 3), prefix, keep)
    query, rows = torch.zeros(2, 4, count, 2), torch.tensor([count - 1, 0, prefix, 1])
    assert torch.equal(part(query[:, :, rows], tokens, rows), part(query, tokens)[:, :, rows])
