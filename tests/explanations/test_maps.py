import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.explanations.maps import (
    attention_maps,
    class_maps,
    head_mean,
    patch_mean_maps,
    query_maps,
    rollout,
    rollout_maps,
    upsample_bilinear,
    upsample_nearest,
)
from vitrail.explanations.record import mean_of_heads, record

from .planted import explicit_attention, planted_vit, tiny_vit


def recorded(model, images, **choice):
    with record(model, **choice) as seen, torch.no_grad():
        model(images)
    return seen


@pytest.mark.parametrize("size", [(24, 24), (16, 40)])
@pytest.mark.parametrize("registers", [0, 4])
def test_maps_of_class_token_and_of_a_patch(size, registers):
    model, images = tiny_vit(registers=registers), torch.randn(2, 3, *size)
    expected = explicit_attention(model, images)
    grid, prefix = (size[0] // 8, size[1] // 8), 1 + registers
    seen = recorded(model, images, queries=(0, (1, 2)))
    for layer in (0, -1):
        by_class = expected[layer][:, :, 0, prefix:].reshape(2, 2, *grid)
        by_patch = expected[layer][:, :, prefix + grid[1] + 2, prefix:].reshape(2, 2, *grid)
        torch.testing.assert_close(class_maps(seen, layer).double(), by_class, atol=2e-6, rtol=1e-4)
        torch.testing.assert_close(query_maps(seen, layer, (1, 2)).double(), by_patch, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(head_mean(class_maps(seen)), class_maps(seen).sum(1) / 2)


def test_attention_maps_is_the_class_tokens_mean_and_leaves_the_mode_alone():
    model, images = tiny_vit(), torch.randn(2, 3, 16, 24)
    expected = explicit_attention(model, images)[1][:, :, 0, 1:].mean(1).reshape(2, 2, 3)
    model.train()
    torch.testing.assert_close(attention_maps(model, images, layer=1).double(), expected, atol=2e-6, rtol=1e-4)
    assert model.training


@pytest.mark.parametrize("registers", [0, 4])
def test_attention_maps_without_a_class_token_is_the_mean_over_patches(registers):
    model = tiny_vit(class_token=False, pool="mean", registers=registers)
    images = torch.randn(2, 3, 16, 24)
    expected = explicit_attention(model, images)[-1][:, :, registers:, registers:].mean(dim=(1, 2)).reshape(2, 2, 3)
    torch.testing.assert_close(attention_maps(model, images).double(), expected, atol=2e-6, rtol=1e-4)
    with pytest.raises(VitrailError, match="no class token"):
        class_maps(recorded(model, images))
    with pytest.raises(VitrailError, match="queries=None"):
        patch_mean_maps(recorded(model, images))


def test_mean_over_patches_leaves_the_prefix_tokens_rows_out():
    model, images = tiny_vit(registers=4), torch.randn(2, 3, 16, 24)
    expected = explicit_attention(model, images)[1][:, :, 5:, 5:].mean(dim=2).reshape(2, 2, 2, 3)
    seen = recorded(model, images, queries=None)
    torch.testing.assert_close(patch_mean_maps(seen, 1).double(), expected, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("class_token", [True, False])
def test_rollout_is_the_product_of_half_attention_half_identity(registers, class_token):
    model = tiny_vit(registers=registers, class_token=class_token, pool="class" if class_token else "mean")
    images = torch.randn(2, 3, 16, 24)
    layers = explicit_attention(model, images)
    eye = torch.eye(layers[0].shape[-1], dtype=torch.float64)
    first, second, third = ((layer.mean(1) + eye) / 2 for layer in layers)
    expected = third @ second @ first
    seen = recorded(model, images, queries=None, fuse=mean_of_heads)
    torch.testing.assert_close(rollout(seen).double(), expected, atol=2e-6, rtol=1e-4)
    patches = expected[:, :, class_token + registers :]
    rows = patches[:, 0] if class_token else patches[:, registers:].mean(dim=1)
    expected_map = rows.reshape(2, 2, 3)
    torch.testing.assert_close(rollout_maps(seen).double(), expected_map, atol=2e-6, rtol=1e-4)


def test_discard_drops_the_smallest_weights_of_each_row():
    model, images = tiny_vit(depth=1), torch.randn(1, 3, 16, 24)
    weights = explicit_attention(model, images)[0].mean(1)[0]
    kept = torch.where(weights >= weights.sort(dim=-1).values[:, 4:5], weights, 0.0)
    expected = (kept / kept.sum(-1, keepdim=True) + torch.eye(7, dtype=torch.float64)) / 2
    seen = recorded(model, images, queries=None)
    # 0.6 of seven tokens is four.
    torch.testing.assert_close(rollout(seen, discard=0.6)[0].double(), expected, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(rollout(seen, discard=0.99)[0].sum(-1), torch.ones(7))


def test_rollout_refuses_what_it_cannot_follow():
    model, images = tiny_vit(), torch.randn(1, 3, 16, 24)
    with pytest.raises(VitrailError, match="all 3 layers"):
        rollout(recorded(model, images, layers=(0, 2), queries=None))
    with pytest.raises(VitrailError, match="rows of all tokens"):
        rollout(recorded(model, images))
    for discard in (-0.1, 1.0):
        with pytest.raises(VitrailError, match="discard"):
            rollout(recorded(model, images, queries=None), discard)


def test_upsampling_keeps_the_place_on_a_non_square_picture():
    model = planted_vit((32, 40), {0: 1 + 3 * 5 + 1})
    values = attention_maps(model, torch.randn(1, 3, 32, 40))
    exact = upsample_nearest(values, (96, 120))[0]
    assert (exact > 0.9).sum() == 24 * 24
    assert (exact[72:96, 24:48] > 0.9).all()
    smooth = upsample_bilinear(values, (96, 120))[0]
    row, column = divmod(int(smooth.argmax()), 120)
    assert 72 <= row < 96
    assert 24 <= column < 48
    assert smooth.unique().numel() > exact.unique().numel()
