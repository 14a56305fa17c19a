"""The way into the model's input and back: exact for points and boxes, to the pixel for masks, in every mode."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess, to_picture

sides = st.integers(2, 90)
modes = st.sampled_from(["shortest", "squash", "longest"])


def preprocess(mode: str, size: tuple[int, int], crop: float = 1.0) -> Preprocess:
    return Preprocess(size, crop if mode != "longest" else 1.0, mode, "bilinear")


@settings(max_examples=60, deadline=None)
@given(modes, st.tuples(sides, sides), sides, sides, st.sampled_from([1.0, 0.875]))
def test_points_come_back_to_where_they_were_and_boxes_are_their_corners(mode, size, height, width, crop):
    place = preprocess(mode, size, crop).placement(height, width)
    points = torch.rand(5, 2, dtype=torch.float64) * torch.tensor([width, height])
    torch.testing.assert_close(place.points_out(place.points_in(points)), points)
    boxes = torch.cat([points, points + 3], dim=1)
    torch.testing.assert_close(place.boxes_in(boxes)[:, :2], place.points_in(points))
    torch.testing.assert_close(place.boxes_in(boxes)[:, 2:], place.points_in(points + 3))


@settings(max_examples=40, deadline=None)
@given(modes, st.tuples(sides, sides), sides, sides, st.sampled_from([1.0, 0.5]))
def test_masks_take_the_shapes_of_picture_and_input(mode, size, height, width, crop):
    place = preprocess(mode, size, crop).placement(height, width)
    assert place.masks_out(torch.ones(2, 7, 5)).shape == (2, height, width)
    assert place.masks_in(torch.ones(2, height, width), (7, 5)).shape == (2, 7, 5)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 40), (48, 48)])
def test_a_spot_is_found_where_its_point_is_mapped_to(mode, height, width):
    """A white square in a picture: where it lies in the input, and where a mask of it lies in the picture."""
    step = preprocess(mode, (32, 32))
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    top, left = height // 2 - 4, width // 2 - 2
    pixels[:, top : top + 8, left : left + 8] = 255
    place = step.placement(height, width)
    seen = step(to_picture(pixels))[0] > 0
    rows, columns = seen.nonzero().T
    middle = torch.stack([columns.float().mean(), rows.float().mean()]) + 0.5
    torch.testing.assert_close(middle, place.points_in(torch.tensor([left + 4.0, top + 4.0])), atol=0.6, rtol=0)
    back = place.masks_out(seen[None].float())[0] > 0.5
    rows, columns = back.nonzero().T
    found = torch.stack([columns.float().mean(), rows.float().mean()]) + 0.5
    torch.testing.assert_close(found, torch.tensor([left + 4.0, top + 4.0]), atol=1.0, rtol=0)
    drawn = place.masks_in((pixels[:1] == 255).float(), (32, 32))[0] > 0.5
    assert float((drawn ^ seen).float().mean()) < 0.02


def test_what_was_cropped_away_comes_back_as_what_was_asked():
    place = preprocess("shortest", (8, 8)).placement(16, 32)
    back = place.masks_out(torch.ones(1, 8, 8), fill=-5.0)
    assert (back[0, :, 9:23] == 1).all() and (back[0, :, :7] == -5).all() and (back[0, :, 25:] == -5).all()


def test_longest_keeps_all_of_the_picture_and_fills_up_with_the_mean():
    step = preprocess("longest", (32, 32))
    picture = Image.new("RGB", (64, 30), (200, 10, 90))
    values = step(picture)
    assert values.shape == (3, 32, 32)
    assert (values[:, 15:] == 0).all() and (values[:, :15] != 0).all()
    expected = (torch.tensor([200, 10, 90]) / 255 - torch.tensor(step.mean)) / torch.tensor(step.std)
    torch.testing.assert_close(values[:, :15], expected[:, None, None].expand(3, 15, 32))
    assert step.placement(30, 64).resized == (15, 32)
    assert step.placement(1, 4000).resized == (1, 32)
    assert Preprocess((32, 48), 1.0, "longest").placement(10, 10).resized == (32, 32)


def test_longest_takes_no_crop():
    with pytest.raises(VitrailError, match="crop must be 1"):
        Preprocess((32, 32), 0.875, "longest")


@pytest.mark.parametrize(("height", "width"), [(37, 61), (61, 37), (20, 20)])
def test_longest_equals_transformers_processor(height, width):
    transformers = pytest.importorskip("transformers")
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    theirs = transformers.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    expected = theirs(to_picture(pixels), return_tensors="pt")
    ours = preprocess("longest", (64, 64))
    torch.testing.assert_close(ours(pixels), expected["pixel_values"][0], atol=1e-5, rtol=0)
    place = ours.placement(height, width)
    assert list(place.resized) == expected["reshaped_input_sizes"][0].tolist()
    logits = torch.randn(2, 16, 16)
    theirs_back = theirs.post_process_masks(
        logits[None, None],
        expected["original_sizes"],
        expected["reshaped_input_sizes"],
        binarize=False,
        pad_size={"height": 64, "width": 64},
    )
    torch.testing.assert_close(place.masks_out(logits), theirs_back[0][0], atol=1e-5, rtol=1e-5)
