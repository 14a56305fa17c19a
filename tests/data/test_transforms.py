"""Augmentation: every knob does what it says, and its randomness is torch's alone."""

import dataclasses
import io
import random

import numpy as np
import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.data import Augment, Preprocess, TrainTransform, read_pixels, to_picture
from vitrail.data.jpeg import PlainJpeg
from vitrail.data.jpeg_part import cut
from vitrail.data.picture import open_pixels
from vitrail.data.transforms import random_box, turn, turn_back

PLAIN = Augment(scale=None, hflip=0.0, randaugment=None, erasing=0.0)
PRE = Preprocess((16, 16), 1.0, interpolation="nearest", mean=(0.0,) * 3, std=(1.0,) * 3)
PHOTO = torch.randint(0, 256, (3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def views(augment: Augment, count: int = 200, preprocess: Preprocess = PRE, photo: torch.Tensor = PHOTO):
    torch.manual_seed(0)
    transform = TrainTransform(preprocess, augment)
    return [transform(photo).finished() for _ in range(count)]


@pytest.mark.parametrize("size", [(16, 16), (9, 31)])
def test_without_augmentation_it_is_the_preprocessing(size):
    preprocess = Preprocess(size, 0.9)
    state = torch.get_rng_state()
    assert torch.equal(TrainTransform(preprocess)(PHOTO).finished(), preprocess(PHOTO))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(TrainTransform(preprocess, PLAIN)(to_picture(PHOTO)).finished(), preprocess(PHOTO))


@pytest.mark.parametrize(("knob", "axis"), [("hflip", 2), ("vflip", 1)])
def test_flips(knob, axis):
    plain, flipped = PRE(PHOTO), PRE(PHOTO).flip(axis)
    counts = [0, 0]
    for view in views(dataclasses.replace(PLAIN, **{knob: 0.3})):
        counts[torch.equal(view, flipped)] += 1
        assert torch.equal(view, plain) or torch.equal(view, flipped)
    assert 35 < counts[1] < 85
    assert torch.equal(views(dataclasses.replace(PLAIN, **{knob: 1.0}), 1)[0], flipped)


def test_quarter_turns_are_equally_likely():
    turned = [torch.rot90(PRE(PHOTO), k, (1, 2)) for k in range(4)]
    hits = [
        next(k for k in range(4) if torch.equal(view, turned[k]))
        for view in views(dataclasses.replace(PLAIN, quarter_turns=True))
    ]
    assert np.bincount(hits, minlength=4).min() > 30


def test_quarter_turns_keep_a_size_that_is_not_square():
    for view in views(dataclasses.replace(PLAIN, quarter_turns=True), 10, PRE.with_size((8, 24))):
        assert view.shape == (3, 8, 24)


@pytest.mark.parametrize("shape", [(40, 60), (7, 100), (1, 10_000), (1, 1)])
def test_random_boxes_lie_inside_with_the_stated_area_and_shape(shape):
    torch.manual_seed(0)
    boxes = [random_box(*shape, (0.25, 0.5), (0.5, 2.0)) for _ in range(500)]
    assert all(t >= 0 and left >= 0 and h > 0 and w > 0 for t, left, h, w in boxes)
    assert all(t + h <= shape[0] and left + w <= shape[1] for t, left, h, w in boxes)
    if shape == (40, 60):
        areas = np.array([h * w for _, _, h, w in boxes]) / 2400
        ratios = np.array([w / h for _, _, h, w in boxes])
        assert 0.22 < areas.min() < 0.28 and 0.47 < areas.max() < 0.53 and abs(areas.mean() - 0.375) < 0.015
        assert 0.45 < ratios.min() < 0.6 and 1.7 < ratios.max() < 2.2 and abs(np.log(ratios).mean()) < 0.06
        assert {t for t, *_ in boxes} >= {0, 5, 10} and max(t + h for t, _, h, _ in boxes) == 40


def test_a_crop_shows_that_part_of_the_picture():
    ramp = torch.arange(240, dtype=torch.uint8).repeat(3, 240, 1)
    for view in views(dataclasses.replace(PLAIN, scale=(0.25, 0.25), ratio=(1.0, 1.0)), 50, PRE, ramp):
        row = view[0, 0] * 255
        # A quarter of the area is half of the width: 120 columns on 16 pixels.
        assert torch.allclose(row.diff(), torch.full((15,), 7.5), atol=0.51)


def test_randaugment_changes_colours_and_positions():
    changed = sum(
        not torch.equal(view, PRE(PHOTO)) for view in views(dataclasses.replace(PLAIN, randaugment=(2, 9)), 50)
    )
    assert changed > 35
    same = views(dataclasses.replace(PLAIN, randaugment=(0, 9)), 5)
    assert all(torch.equal(view, PRE(PHOTO)) for view in same)
    grey = Preprocess((16, 16), 1.0, mean=(0.5,), std=(0.5,))
    assert views(dataclasses.replace(PLAIN, randaugment=(2, 9)), 20, grey)[0].shape == (1, 16, 16)


def test_randaugment_fills_with_the_mean():
    preprocess = Preprocess((16, 16), 1.0, mean=(0.2, 0.4, 0.6), std=(1.0,) * 3)
    white = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    corners = {
        tuple((view[:, y, x] * 255).round().int().tolist())
        for view in views(dataclasses.replace(PLAIN, randaugment=(1, 9)), 200, preprocess, white)
        for y, x in ((0, 0), (0, 15), (15, 0), (15, 15))
    }
    # What has come in from outside is the mean: normalised it is 0.
    assert (0, 0, 0) in corners


def test_color_jitter_keeps_positions():
    black_and_white = torch.zeros(3, 16, 16, dtype=torch.uint8)
    black_and_white[:, :8] = 200
    seen = set()
    for view in views(dataclasses.replace(PLAIN, color_jitter=0.4), 30, PRE, black_and_white):
        assert view[:, :8].unique().numel() == 1 and view[:, 8:].unique().numel() == 1
        seen.add(round(view[0, 0, 0].item(), 3))
    assert len(seen) > 10


def test_erasing_replaces_a_box_by_noise():
    erased = 0
    for view in views(dataclasses.replace(PLAIN, erasing=0.25), 400):
        different = (view != PRE(PHOTO)).any(0)
        if different.any():
            erased += 1
            rows, columns = different.any(1).nonzero().flatten(), different.any(0).nonzero().flatten()
            box = view[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert different.sum() == box[0].numel()
            assert 0.015 <= box[0].numel() / 256 <= 0.36
            assert box.unique().numel() > 1
    assert 65 < erased < 135


@pytest.mark.parametrize("augment", [Augment(), Augment(color_jitter=0.4, quarter_turns=True, vflip=0.5)])
def test_torch_s_generator_determines_a_sample(augment):
    transform = TrainTransform(PRE, augment)
    samples = []
    for noise in range(2):
        random.seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        torch.default_generator.manual_seed(17)
        samples.append(transform(PHOTO).finished())
    assert torch.equal(*samples)
    torch.default_generator.manual_seed(18)
    assert not torch.equal(transform(PHOTO).finished(), samples[0])


def test_the_given_pixels_are_left_alone():
    photo = PHOTO.clone()
    views(Augment(color_jitter=0.4, erasing=1.0), 20, PRE, photo)
    assert torch.equal(photo, PHOTO)


def test_more_bands():
    bands = Preprocess((16, 16), 1.0, mean=(0.5,) * 5, std=(0.5,) * 5)
    photo = torch.cat([PHOTO, PHOTO[:2]])
    assert TrainTransform(bands, Augment(randaugment=None))(photo).values.shape == (5, 16, 16)
    with pytest.raises(VitrailError, match="1 or 3 bands, the preprocessing has 5"):
        TrainTransform(bands, Augment())


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (0.0, 1.0)},
        {"scale": (0.9, 0.1)},
        {"ratio": (2.0, 1.0)},
        {"hflip": 1.5},
        {"erasing": -0.1},
        {"randaugment": (2, 31)},
        {"color_jitter": float("nan")},
    ],
)
def test_impossible_values(wrong):
    with pytest.raises(VitrailError, match=next(iter(wrong))):
        Augment(**wrong)


@pytest.mark.parametrize("turns", range(4))
def test_a_box_of_a_turned_picture_is_found_in_the_picture(turns):
    photo = torch.arange(7 * 11, dtype=torch.uint8).view(1, 7, 11)
    for box in ((0, 0, 1, 1), (1, 2, 3, 4), (2, 0, 5, 6)):
        back = turn_back(box, turns, 7, 11)
        assert torch.equal(turn(cut(photo, back), turns), cut(torch.rot90(photo, turns, (1, 2)), box))


@pytest.mark.parametrize("turns", [False, True])
def test_a_file_gives_the_view_that_its_pixels_give(turns):
    photo = torch.randint(0, 256, (3, 90, 61), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    file = io.BytesIO()
    to_picture(photo).save(file, "JPEG")
    undecoded, pixels = open_pixels(file.getvalue()), read_pixels(file.getvalue())
    assert isinstance(undecoded, PlainJpeg)
    for augment in (Augment(quarter_turns=turns), PLAIN, None):
        transform = TrainTransform(Preprocess((32, 24)), augment)
        for seed in range(20):
            views = []
            for picture in (undecoded, pixels, to_picture(pixels)):
                torch.manual_seed(seed)
                views.append(transform(picture).finished())
            assert torch.equal(views[0], views[1]) and torch.equal(views[0], views[2])
