import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.explanations.maps import attention_maps, upsample_bilinear
from vitrail.explanations.paint import colour_map, overlay, picture_of, top_of

from .planted import planted_vit

GREY = Image.new("RGB", (120, 96), (128, 128, 128))


def test_the_brightest_part_of_the_overlay_is_the_planted_patch_of_a_non_square_picture():
    model = planted_vit((32, 40), {0: 1 + 3 * 5 + 1})
    values = attention_maps(model, torch.randn(1, 3, 32, 40))[0]
    painted = overlay(GREY, values)
    assert painted.shape == (96, 120, 3)
    bright = painted.astype(int).sum(-1)
    bright = bright == bright.max()
    expected = np.zeros((96, 120), dtype=bool)
    expected[72:96, 24:48] = True
    assert np.array_equal(bright, expected)


def test_overlay_mixes_grey_and_colour_by_the_share_of_the_top():
    values = torch.tensor([[0.0, 1.0], [0.5, 2.0]])
    painted = overlay(Image.new("RGB", (4, 4), (100, 100, 100)), values, top=1.0)
    inferno, grey = matplotlib.colormaps["inferno"], 100 / 255 * 0.8
    for (row, column), share in {(0, 0): 0.0, (0, 3): 1.0, (3, 0): 0.5, (3, 3): 1.0}.items():
        cover = 0.35 + 0.5 * share
        expected = ((1 - cover) * grey + cover * np.array(inferno(share)[:3])) * 255
        assert np.abs(painted[row, column] - expected).max() <= 0.51


def test_absent_patches_stay_uncoloured():
    values = torch.tensor([[float("nan"), 1.0]])
    painted = overlay(Image.new("RGB", (4, 2), (200, 200, 200)), values)
    assert painted[0, 0].tolist() == [160, 160, 160]
    assert painted[0, 3, 0] != painted[0, 3, 2]


def test_the_smooth_overlay_has_its_maximum_in_the_same_patch():
    values = torch.zeros(4, 5)
    values[1, 3] = 1.0
    painted = overlay(Image.new("RGB", (100, 80)), values, top=1.0, upsample=upsample_bilinear).astype(int).sum(-1)
    row, column = divmod(int(painted.argmax()), 100)
    assert (row // 20, column // 20) == (1, 3)


def test_top_ignores_a_few_outliers_but_clips_no_more_than_four_fold():
    values = torch.rand(40, 40, generator=torch.Generator().manual_seed(0))
    values[3, 4] = 1.5
    assert 0.95 < top_of(values) < 1.0
    values[3, 4] = 80.0
    assert top_of(values) == pytest.approx(20.0)
    assert top_of(torch.zeros(3, 3)) == 1.0
    assert top_of(torch.tensor([[float("nan"), 2.0]])) == pytest.approx(2.0)


def test_colour_map_ends_are_those_of_the_colours():
    pixels = colour_map(torch.tensor([[0.0, 3.0, float("nan")]]), top=3.0)
    inferno = matplotlib.colormaps["inferno"]
    assert pixels[0, 1].tolist() == [round(255 * c) for c in inferno(1.0)[:3]]
    assert pixels[0, 0].tolist() == pixels[0, 2].tolist() == [round(255 * c) for c in inferno(0.0)[:3]]


def test_picture_of_undoes_the_normalisation_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    normalised = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert np.array_equal(np.asarray(picture_of(normalised, mean, std)), pixels)


@pytest.mark.parametrize(("bands", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (5, [0, 1, 2])])
def test_picture_of_other_numbers_of_bands(bands, shown):
    image = torch.arange(bands).view(-1, 1, 1).expand(-1, 2, 3) / 10
    assert np.asarray(picture_of(image))[0, 0].tolist() == [round(255 * band / 10) for band in shown]


def test_a_stack_of_maps_is_refused():
    # jaxtyping, where it is switched on, says so first.
    with pytest.raises(Exception, match=r"one map \(H, W\)|Type-check error"):
        overlay(GREY, torch.rand(1, 4, 5))
