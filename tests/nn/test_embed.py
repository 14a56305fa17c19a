import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.contracts import VitrailError
from vitrail.nn.embed import (
    PatchEmbed,
    cut_to_patches,
    pad_to_patches,
    patch_grid,
    require_whole_patches,
    resize_to_patches,
)


@pytest.mark.parametrize(("patch", "count"), [(16, 196), (8, 784), (32, 49), (14, 256)])
def test_a_picture_of_224_has_the_published_number_of_patches(patch, count):
    tokens = PatchEmbed(patch, 3, 8)(torch.zeros(1, 3, 224, 224))
    assert tokens.values.shape == (1, count, 8)
    assert tokens.grid == patch_grid((224, 224), (patch, patch))


def test_a_token_is_the_linear_map_of_its_own_patch_only():
    embed = PatchEmbed((4, 2), 5, 6)
    images = torch.randn(2, 5, 8, 6)
    tokens = embed(images)
    assert tokens.grid == (2, 3)
    patch = images[1, :, 4:8, 2:4].flatten()
    expected = embed.proj.weight.flatten(1) @ patch + embed.proj.bias
    torch.testing.assert_close(tokens.values[1, 1 * 3 + 1], expected)


def test_pictures_that_patches_do_not_divide_are_refused_with_sizes_that_work():
    with pytest.raises(VitrailError, match="height 225 is not a multiple of the patch size 16: use 224 or 240"):
        PatchEmbed(16)(torch.zeros(1, 3, 225, 224))
    with pytest.raises(VitrailError, match=r"width 7 .* use 16"):
        require_whole_patches(torch.zeros(1, 3, 16, 7), (16, 16))


def test_a_wrong_number_of_bands_is_refused():
    with pytest.raises(VitrailError, match="4 channels but the model takes 3"):
        PatchEmbed(16)(torch.zeros(1, 4, 32, 32))


def test_padding_keeps_the_picture_and_adds_zeros():
    images = torch.randn(1, 3, 10, 15)
    padded = pad_to_patches(images, (4, 8))
    assert padded.shape == (1, 3, 12, 16)
    assert torch.equal(padded[..., :10, :15], images)
    assert padded[..., 10:, :].abs().sum() == 0 and padded[..., 15:].abs().sum() == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_both_policies_give_whole_patches_and_leave_fitting_pictures_alone(height, width, patch):
    images = torch.rand(1, 1, height, width)
    for fit in (pad_to_patches, resize_to_patches):
        fitted = fit(images, (patch, patch))
        assert fitted.shape[-2] % patch == 0 and fitted.shape[-1] % patch == 0 and fitted.numel() > 0
        if height % patch == 0 and width % patch == 0:
            assert torch.equal(fitted, images)


def test_cutting_leaves_out_what_fills_no_patch_as_a_plain_convolution_does() -> None:
    torch.manual_seed(0)
    embed = PatchEmbed((4, 3), 2, 6, fit=cut_to_patches)
    images = torch.randn(1, 2, 15, 10)
    tokens = embed(images)
    assert tokens.grid == (3, 3)
    torch.testing.assert_close(tokens.feature_map(), embed.proj(images))
    with pytest.raises(VitrailError, match="3x10 is smaller than one patch of 4x3"):
        embed(images[:, :, :3])
