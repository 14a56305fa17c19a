"""Token merging against a plain account of it, against models of duplicated patches, and for every family."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.models.tiny import TINY
from vitrail.contracts import VitrailError
from vitrail.explanations import attention_maps, grad_cam, measure_reach, patch_mean_maps, record, relevance_maps, watch
from vitrail.explanations.given import Given
from vitrail.models import Backbone, Beit, DualEncoder, Model, Plain, VisionTransformer, build, config_of
from vitrail.nn.block import Block
from vitrail.nn.encoder import Encoder
from vitrail.nn.merging_block import MergingBlock, ProportionalAttention
from vitrail.speed import merged

SIZE = (24, 40)
"""Pixels of pictures that are not square: 3 × 5 patches of 8."""


def tiny(name: str, **overrides: object) -> Model:
    torch.manual_seed(0)
    model = build(config_of(name, {**TINY[name], **overrides})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def small(name: str = "vit_small_patch14_reg4_dinov2", **overrides: object) -> VisionTransformer:
    values = {"img_size": SIZE, "patch_size": 8, "embed_dim": 16, "num_heads": 2, "depth": 3, "layer_scale": 0.5}
    torch.manual_seed(0)
    model = build(config_of(name, {**values, "num_classes": 5, **overrides})).eval().double()
    assert isinstance(model, VisionTransformer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def pictures(size: tuple[int, int] = SIZE) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, *size, dtype=torch.float64)


# ---------------------------------------------------------------------- a plain account


def plainly(model: VisionTransformer, image: Tensor, count: int) -> tuple[Tensor, list[set[int]]]:
    """Features of one picture, token by token and by loops, and the patches of every patch token."""
    start = model.embed(image[None])
    prefix, x = start.prefix, start.values[0]
    parts = [{patch} for patch in range(len(x) - prefix)]
    for block in model.blocks:
        assert isinstance(block, Block)
        sizes = torch.tensor([1] * prefix + [len(part) for part in parts], dtype=torch.float64)
        mixed, keys = proportional(block.attn, block.norm1(x), sizes)
        x = x + block.ls1(mixed[None])[0]
        x, parts = merge_once(x, keys, parts, prefix, count)
        x = x + block.ls2(block.mlp(block.norm2(x)[None]))[0]
    x = model.norm(x)
    places = [next(place for place, part in enumerate(parts) if patch in part) for patch in range(15)]
    return torch.cat([x[:prefix], torch.stack([x[prefix + place] for place in places])]), parts


def proportional(attention: nn.Module, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Attention by head in which a token stands as often as it has patches, and the mean keys."""
    query, key, value = (third.chunk(2, dim=-1) for third in attention.qkv(x).chunk(3, dim=-1))
    answers = []
    for q, k, v in zip(query, key, value, strict=True):
        weights = (q @ k.T / math.sqrt(q.shape[-1])).exp() * sizes
        answers.append(weights / weights.sum(dim=-1, keepdim=True) @ v)
    return attention.proj(torch.cat(answers, dim=-1)), torch.stack(key).mean(dim=0)


def merge_once(
    x: Tensor, keys: Tensor, parts: list[set[int]], prefix: int, count: int
) -> tuple[Tensor, list[set[int]]]:
    rows, unit = list(x), keys / keys.norm(dim=-1, keepdim=True)
    best = []
    for even in range(0, len(parts), 2):
        cosines = {odd: float(unit[prefix + even] @ unit[prefix + odd]) for odd in range(1, len(parts), 2)}
        odd = max(cosines, key=cosines.__getitem__)
        best.append((cosines[odd], even, odd))
    members = {place: [place] for place in range(len(parts))}
    for _, even, odd in sorted(best, reverse=True)[: min(count, len(parts) // 2)]:
        members[odd].append(even)
        del members[even]
    merged_rows, merged_parts = [], []
    for together in members.values():
        weights = [len(parts[place]) for place in together]
        total = sum(w * rows[prefix + place] for w, place in zip(weights, together, strict=True))
        merged_rows.append(total / sum(weights))
        merged_parts.append(set.union(*(parts[place] for place in together)))
    return torch.stack([*rows[:prefix], *merged_rows]), merged_parts


@pytest.mark.parametrize("count", [1, 3, 100])
def test_features_are_those_of_a_plain_account(count: int) -> None:
    model = small()
    with torch.no_grad():
        found = merged(model, count).features(pictures())
        assert found.grid == (3, 5) and found.prefix == 5 and found.keep is None and found.merged is None
        for picture, image in enumerate(pictures()):
            wanted, parts = plainly(model, image, count)
            assert len(parts) == (15 - 3 * count if count < 100 else 2)
            assert torch.allclose(found.values[picture], wanted, atol=1e-10)


# ---------------------------------------------------------------------- duplicated patches


def tiles(grid: tuple[int, int] = (3, 5), kinds: int = 3) -> Tensor:
    """Pictures of a few different patches, each there several times."""
    torch.manual_seed(2)
    patches = torch.randn(2, kinds, 3, 8, 8, dtype=torch.float64)
    chosen = torch.randint(kinds, (2, *grid))
    rows = [torch.stack([patches[b][chosen[b, r]] for b in range(2)]) for r in range(grid[0])]
    return torch.cat([row.permute(0, 2, 3, 1, 4).flatten(3) for row in rows], dim=2)


def without_places() -> VisionTransformer:
    model = small()
    with torch.no_grad():
        model.pos_embed.zero_()
    return model


def test_merging_equal_patches_changes_nothing() -> None:
    """Proportional attention is attention over the duplicates."""
    plain = without_places()
    fewer = merged(plain, 3)
    with torch.no_grad():
        one, other = plain.features(tiles()), fewer.features(tiles())
        assert torch.allclose(one.values, other.values, atol=1e-12)
        assert not torch.allclose(plain.features(pictures()).values, fewer.features(pictures()).values, atol=1e-3)
    sizes = sizes_of(fewer, tiles())[-1]
    assert sizes.shape == (2, 5 + 9) and float(sizes.max()) > 1


def test_without_the_sizes_it_would_change() -> None:
    plain = without_places()
    fewer = merged(plain, 3)
    for block in fewer.blocks:
        assert isinstance(block, MergingBlock)
        block.block.attn = Unsized(block.block.attn)
    with torch.no_grad():
        assert not torch.allclose(plain.features(tiles()).values, fewer.features(tiles()).values, atol=1e-3)


class Unsized(nn.Module):
    """Attention that is not told of merging."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, tokens, context):
        return self.attention(tokens._replace(merged=None), context)


@pytest.mark.parametrize("queries", [None, (0, (2, 4), (0, 1))])
def test_attention_is_traced_back_to_the_duplicates(queries: tuple | None) -> None:
    plain = without_places()
    seen = []
    for model in (plain, merged(plain, 3)):
        with record(model, queries=queries) as attention, torch.no_grad():
            model.features(tiles())
        seen.append(attention)
    for layer in range(3):
        one, other = seen[0][layer], seen[1][layer]
        assert other.grid == (3, 5) and other.keep is None and torch.equal(one.queries, other.queries)
        assert torch.allclose(one.weights, other.weights, atol=1e-6)
    assert torch.allclose(seen[0].maps(), seen[1].maps(), atol=1e-6)


@pytest.mark.parametrize("maps", [relevance_maps, grad_cam, attention_maps])
def test_maps_of_duplicates_are_the_plain_models(maps: Callable[..., Tensor]) -> None:
    plain = without_places()
    one, other = maps(plain, tiles()), maps(merged(plain, 3), tiles())
    assert one.shape == other.shape == (2, 3, 5)
    assert float(one.abs().max()) > 0 and torch.allclose(one, other, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------- what holds for all pictures


def sizes_of(model: Plain, images: Tensor) -> list[Tensor]:
    """Sizes of the tokens that every layer is given."""
    given: dict[int, Given] = {}
    with watch(model, given.__setitem__), torch.no_grad():
        model.features(images)
    return [given[layer].tokens.sizes for layer in sorted(given)]


def test_sizes_add_up_and_prefix_tokens_are_never_merged() -> None:
    for layer, sizes in enumerate(sizes_of(merged(small(), 2), pictures())):
        assert sizes.shape == (2, 5 + 15 - 2 * layer)
        assert sizes.sum(dim=1).tolist() == [20, 20] and bool((sizes[:, :5] == 1).all())


def test_maps_sum_to_one_on_the_whole_grid_and_are_even_within_a_token() -> None:
    model = merged(small(), 4)
    given: dict[int, Given] = {}
    with record(model, queries=None) as attention, watch(model, given.__setitem__), torch.no_grad():
        model.features(pictures())
    for layer in range(3):
        seen = attention[layer]
        assert seen.weights.shape == (2, 2, 20, 20) and seen.maps().shape == (2, 2, 20, 3, 5)
        assert torch.allclose(seen.weights.sum(dim=-1), torch.ones(2, 2, 20, dtype=seen.weights.dtype))
        places = given[layer].tokens.places
        together = places[:, :, None] == places[:, None, :]
        weights = seen.weights.mean(dim=1)
        for picture in range(2):
            for one, other in together[picture].nonzero().tolist():
                assert torch.equal(weights[picture, :, one], weights[picture, :, other])
                assert torch.equal(weights[picture, one], weights[picture, other])
    assert patch_mean_maps(attention).shape == (2, 2, 3, 5)


def test_reach_is_measured_in_every_layer() -> None:
    assert [layer.layer for layer in measure_reach(merged(small().float(), 4), pictures().float())] == [0, 1, 2]


def test_zero_is_the_model_itself_and_counts_nothing() -> None:
    model = small()
    assert merged(model, 0) is model
    twin = merged(model, 1)
    assert isinstance(twin.blocks[0], MergingBlock)
    twin.blocks = Encoder([MergingBlock(block.block, 0) for block in twin.blocks if isinstance(block, MergingBlock)])
    with torch.no_grad():
        assert torch.equal(twin(pictures()), model(pictures()))


def test_the_callers_model_stays_and_shares_its_weights() -> None:
    model = small()
    before = model(pictures())
    types, values = [type(m) for m in model.modules()], list(model.parameters())
    twin = merged(model, 2)
    twin(pictures())
    assert [type(m) for m in model.modules()] == types and torch.equal(model(pictures()), before)
    assert {id(p) for p in twin.parameters()} == {id(p) for p in values}
    with torch.no_grad():
        model.head.bias.add_(1.0)
    assert torch.allclose(twin.head.bias, model.head.bias)


def test_intermediates_stand_on_the_whole_grid() -> None:
    model = merged(small(), 3)
    with torch.no_grad():
        maps = model.feature_maps(pictures())
        whole = model.features(pictures())
    assert [tuple(values.shape) for values in maps] == [(2, 16, 3, 5)] * 3
    assert torch.equal(maps[-1], whole.feature_map())


def test_half_precision_merges_alike() -> None:
    model = merged(small().float(), 2)
    with torch.no_grad():
        exact = model(pictures().float())
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(pictures().float())
    assert float((exact - mixed.float()).norm() / exact.norm()) < 0.15


# ---------------------------------------------------------------------- families


@pytest.mark.parametrize("name", TINY)
def test_every_plain_family_merges_and_every_other_is_refused(name: str) -> None:
    model = tiny(name)
    tower = model.image if isinstance(model, DualEncoder) else model
    if not isinstance(tower, Plain) or (isinstance(tower, Beit) and tower.config.shared_bias):
        with pytest.raises(VitrailError, match=rf"{type(model).__name__} cannot be merged"):
            merged(model, 1)
        return
    inputs = model.example_inputs(2)
    fewer = merged(model, 1)
    with torch.no_grad():
        before, after = model(*inputs), fewer(*inputs)
    assert after.shape == before.shape and bool(after.isfinite().all()) and not torch.equal(before, after)
    assert list(model.state_dict()) != list(fewer.state_dict())
    if isinstance(fewer, Backbone):
        with torch.no_grad():
            one, other = model.features(*inputs), fewer.features(*inputs)  # type: ignore[union-attr]
        assert one.values.shape == other.values.shape and other.feature_map().shape[2:] == one.grid
        assert isinstance(next(m for m in fewer.modules() if isinstance(m, ProportionalAttention)).attention, nn.Module)


def test_places_of_merged_tokens_are_their_targets() -> None:
    """Rotary angles of a merged token: as if only the patch that took others in were there."""
    model = tiny("vit_small_patch16_dinov3")
    assert isinstance(model, Plain)
    images = model.example_inputs(1)[0]
    given: dict[int, Given] = {}
    fewer = merged(model, 1)
    with watch(fewer, given.__setitem__), torch.no_grad():
        fewer.features(images)
    mixer, tokens, context = given[1]
    assert isinstance(mixer, ProportionalAttention) and tokens.keep is not None and tokens.merged is not None
    odd = {int(place) for place in tokens.merged[0].bincount().argmax()[None]}
    assert int(tokens.keep[0, odd.pop()]) % 2 == 1
    kept = mixer.attention.keys(tokens._replace(merged=None), context)
    assert torch.equal(mixer.attention.keys(tokens, context), kept)


def test_dropped_patches_and_negative_counts_are_refused() -> None:
    model = small()
    with pytest.raises(VitrailError, match="at least 0"):
        merged(model, -1)
    fewer = merged(model, 1)
    tokens = fewer.embed(pictures(), keep=torch.tensor([[0, 3, 4], [1, 2, 3]]))
    with pytest.raises(ValueError, match="every patch"):
        fewer.encode(tokens)
