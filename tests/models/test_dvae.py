"""The discrete autoencoder: sizes, shapes, gradients, and DALL·E's parameter counts."""

from __future__ import annotations

import pytest
import torch

from tests.models.tiny_dvae import TINY
from vitrail.contracts import VitrailError
from vitrail.models import DiscreteVAE, DVAEConfig, build_unfilled, config_of
from vitrail.models.dvae import logits_of_pixels, pixels_of_logits


def tiny() -> DiscreteVAE:
    torch.manual_seed(0)
    config = config_of("dvae_tiny_stride4_28", TINY["dvae_tiny_stride4_28"])
    assert isinstance(config, DVAEConfig)
    return DiscreteVAE(config)


def test_dalle_has_the_published_number_of_parameters() -> None:
    """The authors' two files of float32 weights are 215 MB and 175 MB."""
    model = build_unfilled(config_of("dvae_base_stride8_112"))
    assert isinstance(model, DiscreteVAE)
    assert sum(p.numel() for p in model.encoder.parameters()) == 53_786_240
    assert sum(p.numel() for p in model.decoder.parameters()) == 43_829_766


@pytest.mark.parametrize(("stride", "size", "grid"), [(1, 5, (5, 5)), (4, 28, (7, 7)), (16, (32, 64), (2, 4))])
def test_grids_follow_from_the_stride(stride: int, size: int | tuple[int, int], grid: tuple[int, int]) -> None:
    config = DVAEConfig(img_size=size, in_channels=2, vocab_size=12, stride=stride, width=4, blocks=1, code_dim=4)
    assert config.grid == grid
    model = DiscreteVAE(config)
    (images,) = model.example_inputs(2)
    assert model.logits(images).shape == (2, 12, *grid)
    assert model.codes(images).shape == (2, grid[0] * grid[1])
    assert model(images).shape == images.shape
    assert [tokens.grid for tokens in model.intermediates(images, [0, -1])] == [tuple(images.shape[2:]), grid]


def test_codes_are_the_likeliest_and_their_picture_is_what_one_hot_weights_give() -> None:
    model = tiny()
    (images,) = model.example_inputs(3)
    codes = model.codes(images)
    assert torch.equal(codes, model.logits(images).permute(0, 2, 3, 1).reshape(3, -1, 16).argmax(-1))
    one_hot = torch.zeros(3, 16, 4).scatter(1, codes[:, None], 1.0).unflatten(2, (2, 2))
    picture = model.picture_of(codes, (2, 2))
    torch.testing.assert_close(picture, pixels_of_logits(model.decode(one_hot)[0]))
    assert picture.shape == images.shape and picture.min() >= 0.0 and picture.max() <= 1.0


def test_a_code_sees_its_neighbourhood_and_a_pixel_comes_from_codes_nearby() -> None:
    """Rows and columns are not mixed up on the way down or up."""
    torch.manual_seed(0)
    model = DiscreteVAE(DVAEConfig(img_size=(16, 64), vocab_size=12, stride=4, width=8, blocks=1, code_dim=4))
    (images,) = model.example_inputs(1)
    images.requires_grad_()
    model.logits(images)[0, :, 1, 2].sum().backward()
    assert images.grad is not None
    columns = images.grad[0].abs().sum((0, 1)).nonzero().flatten()
    assert columns.min() == 0 and 11 < columns.max() < 52
    weights = torch.rand(1, 12, 4, 16, requires_grad=True)
    model.decode(weights)[0][0, :, 2, 40].sum().backward()
    assert weights.grad is not None
    seen = weights.grad[0].abs().sum((0, 1)).nonzero().flatten()
    assert 10 in seen and 0 not in seen and 1 not in seen


def test_every_parameter_learns() -> None:
    model = tiny()
    model(model.example_inputs(2)[0]).square().sum().backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # The last convolution gives location and scale; the picture is the location alone.
    assert not idle
    head = model.decoder.layers.get_submodule("head").weight
    assert isinstance(head, torch.Tensor) and head.grad is not None
    assert head.grad[:1].any() and not head.grad[1:].any()


def test_pixels_survive_the_way_to_logits_and_back() -> None:
    pixels = torch.linspace(0, 1, 11)
    assert logits_of_pixels(pixels).isfinite().all()
    torch.testing.assert_close(pixels_of_logits(logits_of_pixels(pixels)), pixels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({"stride": 6}, "power of two, not 6"), ({"img_size": 30}, "use 32x32"), ({"num_classes": 3}, "no classes")],
        *[({"width": 6}, "width=6"), ({"vocab_size": 1}, "vocab_size=1")],
    ],
)
def test_impossible_numbers_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(VitrailError, match=message):
        DVAEConfig(**options)


def test_pictures_that_do_not_fit_are_refused() -> None:
    with pytest.raises(VitrailError, match="9x8 are no whole codes of 4 pixels: use 8x8"):
        tiny().codes(torch.zeros(1, 1, 9, 8))
    with pytest.raises(VitrailError, match="3 channels but the model takes 1"):
        tiny().codes(torch.zeros(1, 3, 8, 8))
