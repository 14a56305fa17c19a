"""One preprocessing: the same bits whatever the way in, and the geometry that the docstring states."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from vitrail.contracts import VitrailError
from vitrail.data import HALF_MEAN, HALF_STD, Preprocess, read_picture, to_picture, to_pixels
from vitrail.data.preprocess import to_bands

sides = st.integers(1, 70)
preprocesses = st.builds(
    lambda size, crop, resize, interpolation, antialias, bands: Preprocess(
        size, crop, resize, interpolation, antialias, (0.485, 0.456, 0.406)[:bands], (0.229, 0.224, 0.225)[:bands]
    ),
    st.tuples(sides, sides),
    st.sampled_from([1.0, 0.95, 0.875, 0.5]),
    st.sampled_from(["shortest", "squash"]),
    st.sampled_from(["bicubic", "bilinear", "nearest"]),
    st.booleans(),
    st.sampled_from([1, 3]),
)


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), generator=generator, dtype=torch.uint8)


@settings(max_examples=60, deadline=None)
@given(preprocesses, sides, sides, st.sampled_from([1, 3]), st.integers(0, 9))
def test_every_way_in_gives_the_same_bits(preprocess, height, width, channels, seed):
    pixels = photo(height, width, channels, seed)
    picture = to_picture(pixels)
    one = preprocess(picture)
    assert one.shape == (preprocess.bands, *preprocess.size)
    assert torch.equal(to_pixels(picture), pixels)
    assert torch.equal(preprocess(pixels), one)
    strided = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(preprocess(strided), one)
    other = photo(17, 23, channels, seed + 1)
    assert torch.equal(preprocess.batch([other, picture, pixels])[1:], torch.stack([one, one]))
    assert torch.equal(preprocess.batch(torch.stack([pixels, pixels]))[1], one)
    again = Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict())))
    assert again == preprocess and torch.equal(again(picture), one)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("sides", [(1, 1), (17, 23), (1, 40)])
def test_one_pixel_is_enough(interpolation, antialias, sides):
    preprocess = Preprocess((1, 1), 1.0, "squash", interpolation, antialias)
    grey = torch.full((3, *sides), 77, dtype=torch.uint8)
    assert torch.equal(preprocess(grey), preprocess.normalize(torch.full((3, 1, 1), 77, dtype=torch.uint8)))


def test_threads_do_not_change_the_bits():
    pixels, preprocess = photo(301, 207), Preprocess((224, 160))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = preprocess(pixels)
        torch.set_num_threads(4)
        assert torch.equal(preprocess(pixels), one)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(300, 200), (200, 301), (31, 47), (64, 64)])
def test_square_sizes_equal_torchvision(mode, shape):
    pixels = photo(*shape)
    preprocess = Preprocess((64, 64), 0.875, interpolation=mode)
    reference = torch.nn.Sequential(
        *[
            v2.Resize(int(64 / 0.875), v2.InterpolationMode(mode), antialias=True),
            v2.CenterCrop(64),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocess.mean, preprocess.std),
        ]
    )
    assert torch.equal(preprocess.fit(pixels), reference[:2](pixels))
    torch.testing.assert_close(preprocess(pixels), reference(pixels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(50, 40), (13, 27), (150, 171)])
def test_resizing_agrees_with_pillow_within_two_levels(mode, size):
    pixels = photo(61, 83)
    preprocess = Preprocess(size, 1.0, "squash", mode)
    kernel = {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR, "nearest": Image.NEAREST}[mode]
    pillow = torch.from_numpy(np.array(to_picture(pixels).resize(size[::-1], kernel))).permute(2, 0, 1)
    difference = (preprocess.fit(pixels).int() - pillow.int()).abs().max()
    assert difference <= {"nearest": 0, "bilinear": 1, "bicubic": 2}[mode]


def test_policy_for_sizes_that_are_not_square():
    # A ramp along the width: what is kept of it can be read from the pixels.
    ramp = torch.arange(200, dtype=torch.uint8).repeat(3, 100, 1)
    fitted = Preprocess((50, 50), 1.0, interpolation="nearest").fit(ramp)
    # 100 x 200 -> 50 x 100, of which the columns 25 … 74: every second from 51 on.
    assert fitted[0, 0].tolist() == list(range(51, 151, 2))
    wide = Preprocess((50, 100), 1.0, interpolation="nearest").fit(ramp)
    assert wide[0, 0].tolist() == list(range(1, 200, 2))
    tall = Preprocess((100, 50), 1.0, interpolation="nearest").fit(ramp)
    assert tall[0, 0].tolist() == list(range(75, 125))
    squashed = Preprocess((100, 20), 1.0, "squash", "nearest").fit(ramp)
    assert squashed[0, 0].tolist() == list(range(5, 200, 10))


def test_crop_keeps_its_share_of_the_side():
    ramp = torch.arange(100, dtype=torch.uint8).repeat(3, 100, 1)
    fitted = Preprocess((50, 50), 0.5, interpolation="nearest").fit(ramp)
    assert fitted[0, 0].tolist() == list(range(25, 75))


@pytest.mark.parametrize("shape", [(1, 10_000), (10_000, 1), (1, 1), (2, 9_999)])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_extreme_shapes_take_bounded_memory(shape, resize):
    grey = torch.zeros(3, *shape, dtype=torch.uint8)
    # The middle is white: a crop from the centre shows it.
    grey[:, shape[0] // 3 : shape[0] - shape[0] // 3, shape[1] // 3 : shape[1] - shape[1] // 3] = 255
    preprocess = Preprocess((224, 224), resize=resize, mean=(0.0,) * 3, std=(1.0,) * 3)
    out = preprocess(grey)
    assert out.shape == (3, 224, 224)
    assert out[:, 112, 112].tolist() == [1.0] * 3
    if resize == "shortest" and max(shape) > 1:
        assert out.min() == 1.0


def test_normalisation_is_exact():
    preprocess = Preprocess((1, 1), 1.0, mean=(0.25, 0.5, 0.75), std=(0.5, 0.25, 2.0))
    pixel = torch.tensor([0, 255, 51], dtype=torch.uint8)[:, None, None]
    assert preprocess(pixel).flatten().tolist() == pytest.approx([-0.5, 2.0, (0.2 - 0.75) / 2])


def test_more_bands_than_three():
    preprocess = Preprocess((8, 8), 1.0, mean=(0.5,) * 7, std=(0.5,) * 7)
    assert preprocess(photo(16, 12, 7)).shape == (7, 8, 8)
    grey = photo(16, 12, 1)
    assert torch.equal(preprocess(grey)[3], preprocess(grey)[0])
    with pytest.raises(VitrailError, match="3 channels was given to a preprocessing for 7"):
        preprocess(photo(16, 12, 3))


def test_luma_equals_pillow_on_all_colours():
    levels = torch.arange(0, 256, 5, dtype=torch.uint8)
    cube = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).reshape(3, 52, -1)
    pillow = np.asarray(to_picture(cube).convert("L"))
    assert np.array_equal(to_bands(cube, 1)[0].numpy(), pillow)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_pillow_modes_go_by_the_reader_s_policies(mode, tmp_path):
    rgb = Image.fromarray(photo(20, 30).permute(1, 2, 0).numpy())
    if mode == "I;16":
        picture = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 109)
    else:
        picture = rgb.convert(mode)
    picture.save(tmp_path / "a.tif")
    preprocess = Preprocess((16, 16), mean=HALF_MEAN, std=HALF_STD)
    assert torch.equal(preprocess(picture), preprocess(read_picture(tmp_path / "a.tif")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 5)}, "size must be two positive"),
        ({"crop": 0.0}, r"crop must lie in \(0, 1\]"),
        ({"crop": float("nan")}, "crop must lie in"),
        ({"crop": 1.5}, "crop must lie in"),
        ({"std": (1.0, 0.0, 1.0)}, "std .* positive"),
        ({"mean": (0.5, float("nan"), 0.5)}, "finite"),
        ({"mean": (0.5,)}, "mean has 1 bands and std 3"),
        ({"mean": (), "std": ()}, "mean has 0 bands"),
    ],
)
def test_impossible_values_are_refused(change, message):
    with pytest.raises(VitrailError, match=message):
        dataclasses.replace(Preprocess(), **change)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("crop", None, "lacks crop"),
        ("zoom", 2, "unknown zoom"),
        ("size", [224], r"size must be two whole numbers \[H, W\], not \[224\]"),
        ("size", 224, "size must be two whole numbers"),
        ("size", [224.0, 224], "size must be two whole numbers"),
        ("crop", "big", "crop must be a number, not 'big'"),
        ("crop", True, "crop must be a number"),
        ("antialias", 1, "antialias must be true or false"),
        ("mean", "0.5", "mean must be a list of numbers"),
        ("std", [0.1, None, 0.2], "std must be a number, not None"),
        ("interpolation", "lanczos", "interpolation must be one of bicubic, bilinear, nearest, not 'lanczos'"),
        ("resize", 3, "resize must be one of shortest, squash"),
    ],
)
def test_stored_values_are_checked(key, value, message):
    stored = Preprocess().to_dict()
    stored[key] = value
    if value is None and key == "crop":
        del stored[key]
    with pytest.raises(VitrailError, match=message):
        Preprocess.from_dict(stored)


def test_whole_numbers_in_json_become_floats():
    stored = {**Preprocess().to_dict(), "crop": 1, "mean": [0, 0, 0], "std": [1, 1, 1]}
    assert Preprocess.from_dict(stored) == Preprocess(crop=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)


def test_with_size_changes_nothing_else():
    assert Preprocess(crop=0.9).with_size((96, 32)) == Preprocess((96, 32), crop=0.9)


@pytest.mark.parametrize(("bands", "channels"), [(1, 1), (3, 3), (4, 3)])
def test_pictures_are_decoded_as_grey_for_one_band_alone(bands, channels):
    assert Preprocess(mean=(0.5,) * bands, std=(0.5,) * bands).channels == channels


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(640, 480, (224, 296)), (480, 640, (304, 224)), (300, 300, (224, 224)), (5000, 10, (224, 112_000))],
)
def test_the_whole_picture_is_kept_at_its_own_aspect_in_whole_patches(width, height, size):
    preprocess = Preprocess(size=(224, 300), mean=HALF_MEAN, std=HALF_STD)
    whole = preprocess.whole(Image.new("L", (width, height)), (16, 8))
    assert whole == dataclasses.replace(preprocess, size=size, crop=1.0, resize="squash")


def test_tensors_that_are_no_pictures_are_refused():
    for wrong in (torch.zeros(3, 0, 5, dtype=torch.uint8),):
        with pytest.raises(VitrailError, match=r"\(C, H, W\) uint8 and not empty"):
            Preprocess()(wrong)
    with pytest.raises(VitrailError, match="no pictures"):
        Preprocess().batch([])
