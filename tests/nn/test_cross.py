import pytest
import torch
import torch.nn.functional as F

from vitrail.nn import Block, Context, CrossAttention, CrossBlock, Memory, Mlp, PlacedAttention, Tokens, post_norm

DIM, HEADS = 12, 3


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(part, query, key, value, mask=None):
    """Attention of three projections through torch's own function."""
    width = part.q.out_features
    return F.multi_head_attention_forward(
        query.transpose(0, 1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        DIM,
        HEADS,
        None,
        torch.cat([part.q.bias, part.k.bias, part.v.bias]),
        None,
        None,
        False,
        0.0,
        part.proj.weight,
        part.proj.bias,
        training=False,
        need_weights=True,
        average_attn_weights=False,
        key_padding_mask=mask,
        use_separate_proj_weight=True,
        q_proj_weight=part.q.weight,
        k_proj_weight=part.k.weight,
        v_proj_weight=part.v.weight,
    ), width


def test_positions_go_to_queries_and_keys_alone():
    torch.manual_seed(0)
    part = PlacedAttention(DIM, HEADS).eval()
    x, places = noise(2, 5, DIM), noise(2, 5, DIM, seed=1)
    tokens, context = Tokens(x, (5, 1)), Context(positions=places)
    (expected, weights), _ = by_hand(part, x + places, x + places, x)
    torch.testing.assert_close(part(tokens, context), expected.transpose(0, 1))
    torch.testing.assert_close(part.weights(tokens, context), weights)
    assert not torch.allclose(part(tokens), part(tokens, context))


def test_cross_attention_reads_the_memory_where_its_mask_allows():
    torch.manual_seed(0)
    part = CrossAttention(DIM, HEADS).eval()
    x, places = noise(2, 4, DIM), noise(2, 4, DIM, seed=1)
    memory, shift = noise(2, 6, DIM, seed=2), noise(1, 6, DIM, seed=3)
    allowed = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    source = Tokens(memory, (2, 3))
    context = Context(positions=places, memory=Memory(source, shift, allowed[:, None, None]))
    tokens = Tokens(x, (4, 1))
    (expected, weights), _ = by_hand(part, x + places, memory + shift, memory, mask=~allowed)
    torch.testing.assert_close(part(tokens, context), expected.transpose(0, 1))
    rows = part.weights(tokens, context, queries=torch.tensor([2]))
    torch.testing.assert_close(rows, weights[:, :, [2]])
    assert (rows[1, ..., 3:] == 0).all()
    assert part.seen(tokens, context) is source


def test_memory_and_heads_may_have_widths_of_their_own():
    part = CrossAttention(DIM, 2, memory_dim=7, inner=4)
    context = Context(memory=Memory(Tokens(noise(2, 6, 7), (2, 3))))
    assert part(Tokens(noise(2, 4, DIM), (4, 1)), context).shape == (2, 4, DIM)
    assert part.q.out_features == 4


def test_without_a_memory_there_is_nothing_to_read():
    with pytest.raises(ValueError, match="memory"):
        CrossAttention(DIM, HEADS)(Tokens(noise(1, 4, DIM), (4, 1)))


def test_a_decoder_block_in_the_order_of_the_paper_is_torchs():
    torch.manual_seed(0)
    theirs = torch.nn.TransformerDecoderLayer(DIM, HEADS, 20, dropout=0.0, batch_first=True).eval()
    mlp = Mlp(DIM, 20, activation=torch.nn.ReLU)
    ours = CrossBlock(DIM, PlacedAttention(DIM, HEADS), CrossAttention(DIM, HEADS), mlp, order=post_norm).eval()
    with torch.no_grad():
        for part, other in ((ours.attn, theirs.self_attn), (ours.cross, theirs.multihead_attn)):
            for name, weight, bias in zip(
                "qkv", other.in_proj_weight.chunk(3), other.in_proj_bias.chunk(3), strict=True
            ):
                part.get_submodule(name).weight.copy_(weight)
                part.get_submodule(name).bias.copy_(bias)
            part.proj.load_state_dict(other.out_proj.state_dict())
        for norm, other in ((ours.norm1, theirs.norm1), (ours.norm2, theirs.norm2), (ours.norm3, theirs.norm3)):
            other.weight.add_(noise(DIM) * 0.2)
            norm.load_state_dict(other.state_dict())
        mlp.fc1.load_state_dict(theirs.linear1.state_dict())
        mlp.fc2.load_state_dict(theirs.linear2.state_dict())
    x, memory = noise(2, 4, DIM), noise(2, 6, DIM, seed=1)
    out = ours(Tokens(x, (4, 1)), Context(memory=Memory(Tokens(memory, (2, 3)))))
    torch.testing.assert_close(out.values, theirs(x, memory))


def test_post_norm_stands_behind_the_sum():
    torch.manual_seed(0)
    part, mlp = PlacedAttention(DIM, HEADS), Mlp(DIM, 16)
    block = Block(DIM, part, mlp, order=post_norm)
    tokens = Tokens(noise(2, 4, DIM), (2, 2))
    middle = block.norm1(tokens.values + part(tokens))
    torch.testing.assert_close(block(tokens).values, block.norm2(middle + mlp(middle)))
