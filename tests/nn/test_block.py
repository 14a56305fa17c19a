import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitrail.nn import (
    Attention,
    Block,
    ConditionedBlock,
    Context,
    DropPath,
    Encoder,
    KeylessLinear,
    LayerScale,
    Mlp,
    ParallelBlock,
    SwiGLU,
    Tokens,
)
from vitrail.nn.mlp import swiglu_hidden
from vitrail.nn.residual import drop_path_rates

DIM = 8


def parts() -> tuple[Attention, Mlp]:
    torch.manual_seed(0)
    return Attention(DIM, 2), Mlp(DIM, 16)


def tokens(seed: int = 1, batch: int = 2) -> Tokens:
    return Tokens(torch.randn(batch, 5, DIM, generator=torch.Generator().manual_seed(seed)), (2, 2), prefix=1)


def test_norms_stand_before_the_branches():
    attention, mlp = parts()
    block = Block(DIM, attention, mlp)
    x = tokens()
    middle = x.values + attention(x.with_values(block.norm1(x.values)))
    expected = middle + mlp(block.norm2(middle))
    out = block(x)
    torch.testing.assert_close(out.values, expected)
    assert (out.grid, out.prefix) == (x.grid, x.prefix)


def test_the_parallel_block_feeds_both_branches_from_one_norm():
    attention, mlp = parts()
    block = ParallelBlock(DIM, attention, mlp)
    x = tokens()
    normed = block.norm(x.values)
    torch.testing.assert_close(block(x).values, x.values + attention(x.with_values(normed)) + mlp(normed))


@pytest.mark.parametrize("kind", [Block, ParallelBlock])
def test_layer_scale_of_zero_makes_a_block_the_identity(kind):
    block = kind(DIM, *parts(), layer_scale=0.0)
    assert torch.equal(block(tokens()).values, tokens().values)


def test_layer_scale_multiplies_channels():
    scale = LayerScale(3, 0.5)
    scale.gamma.data = torch.tensor([1.0, 2.0, 3.0])
    assert scale(torch.ones(1, 1, 3)).tolist() == [[[1.0, 2.0, 3.0]]]


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop = DropPath(0.25).train()
    torch.manual_seed(0)
    x = drop(torch.ones(20_000, 2, 3))
    per_sample = x.flatten(1)
    assert per_sample.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(per_sample.amin(1), per_sample.amax(1))
    assert x.mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(drop.eval()(torch.ones(4, 1, 1)), torch.ones(4, 1, 1))


def test_drop_path_refuses_rates_outside_zero_to_one():
    with pytest.raises(ValueError, match="below 1, not 1"):
        DropPath(1.0)


def test_drop_path_rates_rise_from_zero_to_the_highest():
    assert drop_path_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert drop_path_rates(0.3, 1) == [0.0]


def test_swiglu_gates_the_second_half_by_the_first():
    mlp = SwiGLU(DIM, 4)
    x = torch.randn(1, 3, DIM)
    a, b = F.linear(x, mlp.w12.weight, mlp.w12.bias).split(4, dim=-1)
    torch.testing.assert_close(mlp(x), mlp.w3(a * torch.sigmoid(a) * b))


def test_swiglu_width_of_the_giant():
    assert swiglu_hidden(1536, 4.0) == 4096


class Add(nn.Module):
    """A block that adds a number, so that the loop over blocks can be read off the result."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number
        self.calls = 0

    def forward(self, x: Tokens, context: object) -> Tokens:
        self.calls += 1
        return x.with_values(x.values + self.number)


def test_the_loop_runs_blocks_in_order_and_taps_what_was_asked():
    encoder = Encoder([Add(1), Add(10), Add(100)])
    zero = Tokens(torch.zeros(1, 1, 1), (1, 1))
    assert encoder(zero).values.item() == 111
    taps = encoder.taps(zero, (-2, 0, 1))
    assert [tap.values.item() for tap in taps] == [11, 1, 11]


def test_taps_do_not_run_blocks_behind_the_deepest():
    encoder = Encoder([Add(1), Add(10), Add(100)])
    encoder.taps(Tokens(torch.zeros(1, 1, 1), (1, 1)), (0,))
    assert [block.calls for block in encoder] == [1, 0, 0]


def test_a_block_that_does_not_exist_is_named():
    with pytest.raises(IndexError, match="no block 3 in an encoder of 2"):
        Encoder([Add(1), Add(2)]).taps(Tokens(torch.zeros(1, 1, 1), (1, 1)), (3,))


def bare_norm(dim: int) -> nn.Module:
    return nn.LayerNorm(dim, elementwise_affine=False)


def test_a_conditioned_block_starts_as_the_identity():
    block = ConditionedBlock(DIM, *parts(), bare_norm)
    x = tokens()
    assert torch.equal(block(x, Context(condition=torch.randn(2, DIM))).values, x.values)


def test_a_conditioned_block_follows_the_equations():
    """DiT, section 3.2: x + gate * branch(norm(x) * (1 + scale) + shift), the six from SiLU and a linear layer."""
    attention, mlp = parts()
    block = ConditionedBlock(DIM, attention, mlp, bare_norm)
    nn.init.normal_(block.modulation.weight)
    nn.init.normal_(block.modulation.bias)
    x, condition = tokens(), torch.randn(2, DIM)
    six = (F.silu(condition) @ block.modulation.weight.T + block.modulation.bias).view(2, 6, 1, DIM)
    value = x.values
    mixed = attention(x.with_values(bare_norm(DIM)(value) * (1 + six[:, 1]) + six[:, 0]))
    value = value + six[:, 2] * mixed
    value = value + six[:, 5] * mlp(bare_norm(DIM)(value) * (1 + six[:, 4]) + six[:, 3])
    torch.testing.assert_close(block(x, Context(condition=condition)).values, value)
    with pytest.raises(ValueError, match="condition"):
        block(x)


def test_keys_without_bias_are_a_joint_projection_with_zeros():
    torch.manual_seed(0)
    part, full = KeylessLinear(DIM, 3 * DIM), nn.Linear(DIM, 3 * DIM)
    nn.init.normal_(part.q_bias)
    nn.init.normal_(part.v_bias)
    with torch.no_grad():
        full.weight.copy_(part.weight)
        full.bias.copy_(torch.cat([part.q_bias, torch.zeros(DIM), part.v_bias]))
    x = torch.randn(2, 5, DIM)
    torch.testing.assert_close(part(x), full(x))
    assert Attention(DIM, 2, qkv=KeylessLinear)(tokens()).shape == (2, 5, DIM)
