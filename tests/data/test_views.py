"""Multi-crop: sizes, colours as torchvision computes them, each chance as stated, and torch's randomness alone."""

import dataclasses
import math

import pytest
import torch
from torchvision.transforms.v2 import functional as v2

from tests.data.finished import finished
from vitrail.contracts import VitrailError
from vitrail.data import Augment, MultiCrop, MultiCropTransform, Preprocess
from vitrail.data.views import LOCAL_VIEWS, MASKS, SECOND_VIEW

PRE = Preprocess((32, 32), 1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
GREY = Preprocess((28, 28), 1.0, mean=(0.0,), std=(1.0,))
STILL = Augment(scale=None, hflip=0.0, randaugment=None, erasing=0.0)
PLAIN = MultiCrop(
    local_crops=3,
    global_scale=(1.0, 1.0),
    local_scale=(1.0, 1.0),
    ratio=(1.0, 1.0),
    jitter=0.0,
    grey=0.0,
    blur=(0.0, 0.0, 0.0),
    solarise=0.0,
)
PHOTO = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def sample(seed=0, photo=PHOTO, preprocess=PRE, local=(16, 16), augment=STILL, mask=None, **changes):
    torch.manual_seed(seed)
    transform = MultiCropTransform(preprocess, dataclasses.replace(PLAIN, **changes), augment, local, mask)
    return finished(transform(photo))


def test_nothing_random_gives_the_picture_at_each_size():
    views = sample()
    assert {name: tuple(view.shape) for name, view in views.items()} == {
        "images": (3, 32, 32),
        SECOND_VIEW: (3, 32, 32),
        LOCAL_VIEWS: (3, 3, 16, 16),
    }
    torch.testing.assert_close(views["images"], PRE(PHOTO), atol=0, rtol=0)
    small = PRE.with_size((16, 16))(PHOTO)
    for view in views[LOCAL_VIEWS]:
        torch.testing.assert_close(view, small, atol=0, rtol=0)


def test_grey_pictures_of_any_shape_and_no_local_views():
    photo = torch.randint(0, 256, (1, 40, 21), dtype=torch.uint8)
    views = sample(photo=photo, preprocess=GREY, local=(12, 8), jitter=1.0, grey=1.0, blur=(1.0,) * 3, solarise=1.0)
    assert views["images"].shape == (1, 28, 28) and views[LOCAL_VIEWS].shape == (3, 1, 12, 8)
    assert all(float(view.min()) >= 0.0 and float(view.max()) <= 1.0 for view in views.values())
    assert LOCAL_VIEWS not in sample(photo=photo, preprocess=GREY, local_crops=0)


@pytest.mark.parametrize(
    ("size", "patch", "asked", "found"),
    [
        ((224, 224), (16, 16), None, (96, 96)),
        ((224, 224), (14, 14), None, (98, 98)),
        ((28, 28), (4, 4), None, (12, 12)),
        ((224, 448), (16, 16), None, (96, 192)),
        ((224, 224), (16, 16), 112, (112, 112)),
        ((8, 8), (8, 8), None, (8, 8)),
    ],
)
def test_local_views_have_whole_patches(size, patch, asked, found):
    assert MultiCrop(local_size=asked).local_side(size, patch) == found


def test_the_seed_determines_a_sample_and_the_picture_is_left_alone():
    crops = {"jitter": 0.8, "hue": 0.1, "grey": 0.2, "blur": (1.0, 0.1, 0.5), "solarise": 0.2}
    photo = PHOTO.clone()
    first, again, other = (
        sample(seed, photo, augment=Augment(quarter_turns=True), local_scale=(0.05, 0.4), **crops) for seed in (3, 3, 4)
    )
    assert torch.equal(photo, PHOTO)
    for name in first:
        assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name])
    assert not torch.equal(first[LOCAL_VIEWS][0], first[LOCAL_VIEWS][1])


def test_views_take_the_stated_share_of_the_area():
    ramp = torch.arange(240, dtype=torch.uint8).repeat(3, 240, 1)
    for seed in range(20):
        views = sample(seed, ramp, global_scale=(0.25, 0.25), local_scale=(0.0625, 0.0625))
        assert torch.allclose((views["images"][0, 0] * 255).diff(), torch.full((31,), 3.75), atol=0.76)
        assert torch.allclose((views[LOCAL_VIEWS][0, 0, 0] * 255).diff(), torch.full((15,), 3.75), atol=0.76)


def test_each_view_is_flipped_and_turned_by_itself():
    turned = {tuple(torch.rot90(PRE(PHOTO), k, (1, 2)).flatten().tolist()): k for k in range(4)}
    seen = [
        turned[tuple(sample(seed, augment=dataclasses.replace(STILL, quarter_turns=True))[name].flatten().tolist())]
        for seed in range(40)
        for name in ("images", SECOND_VIEW)
    ]
    assert {*seen} == {0, 1, 2, 3}
    assert any(left != right for left, right in zip(seen[::2], seen[1::2], strict=True))
    flipped = sample(augment=dataclasses.replace(STILL, hflip=1.0))
    assert torch.equal(flipped["images"], PRE(PHOTO).flip(2)) and torch.equal(flipped[SECOND_VIEW], PRE(PHOTO).flip(2))


def changed(name, view, **changes):
    """How often one of the views differs from the plain one."""
    plain = sample()[name][view] if name == LOCAL_VIEWS else sample()[name]
    count = 0
    for seed in range(60):
        found = sample(seed, **changes)[name]
        count += not torch.equal(found[view] if name == LOCAL_VIEWS else found, plain)
    return count


def test_chances_are_those_of_each_view():
    assert changed("images", 0, solarise=0.5) == 0 and 18 < changed(SECOND_VIEW, 0, solarise=0.5) < 42
    blur = {"blur": (1.0, 0.0, 0.5), "blur_sigma": (20.0, 20.0)}
    assert changed("images", 0, **blur) == 60 and changed(SECOND_VIEW, 0, **blur) == 0
    assert 18 < changed(LOCAL_VIEWS, 1, **blur) < 42
    assert 36 < changed("images", 0, jitter=0.8) < 58 and 4 < changed("images", 0, grey=0.2) < 24


def within_a_level(found, expected):
    torch.testing.assert_close(found, expected, atol=1.01 / 255, rtol=0)


def test_colours_are_those_of_torchvision():
    only = {"jitter": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    picture = PHOTO.float() / 255
    adjust = {"brightness": v2.adjust_brightness, "contrast": v2.adjust_contrast, "saturation": v2.adjust_saturation}
    for name, function in adjust.items():
        for seed in range(5):
            view = sample(seed, **{**only, name: 0.4})["images"]
            # The factor is in the numbers drawn; found again from the candidates.
            errors = [
                ((function(picture, factor) - view).abs().max().item(), factor)
                for factor in torch.linspace(0.6, 1.4, 801).tolist()
            ]
            assert min(errors)[0] <= 1.5 / 255, name
    within_a_level(sample(grey=1.0)["images"], v2.rgb_to_grayscale(picture, 3))
    within_a_level(sample(solarise=1.0)[SECOND_VIEW], v2.solarize(picture, 0.5))
    sigma = 14 * 32 / 224
    within_a_level(
        sample(blur=(1.0, 0.0, 0.0), blur_sigma=(14.0, 14.0))["images"],
        v2.gaussian_blur(picture, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma] * 2),
    )
    hued = [sample(seed, **{**only, "hue": 0.5})["images"] for seed in range(5)]
    for view in hued:  # the hue turns, the value of a pixel (its largest band) stays
        within_a_level(view.amax(0), picture.amax(0))
    assert not torch.equal(hued[0], hued[1])


def test_masks_are_drawn_for_both_global_views():
    views = sample(mask=lambda: torch.rand(6) < 0.5)
    assert views[MASKS].shape == (2, 6) and views[MASKS].dtype == torch.bool
    assert any(not torch.equal(*sample(seed, mask=lambda: torch.rand(6) < 0.5)[MASKS]) for seed in range(5))


@pytest.mark.parametrize(
    "wrong",
    [
        {"global_scale": (0.0, 1.0)},
        {"local_scale": (0.5, 0.1)},
        {"ratio": (2.0, 1.0)},
        {"local_crops": -1},
        {"local_size": 0},
        {"jitter": 1.5},
        {"hue": 0.6},
        {"blur": (0.5, 0.5, 2.0)},
        {"blur_sigma": (2.0, 1.0)},
    ],
)
def test_impossible_values(wrong):
    with pytest.raises(VitrailError, match=next(iter(wrong))):
        MultiCrop(**wrong)


def test_bands_that_have_no_colours():
    bands = Preprocess((16, 16), 1.0, mean=(0.5,) * 5, std=(0.5,) * 5)
    photo = torch.randint(0, 256, (5, 20, 20), dtype=torch.uint8)
    assert sample(photo=photo, preprocess=bands)["images"].shape == (5, 16, 16)
    with pytest.raises(VitrailError, match="1 or 3 bands, the preprocessing has 5"):
        sample(photo=photo, preprocess=bands, jitter=0.5)
