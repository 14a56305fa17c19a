"""Pictures of bounded sides, and batches of pictures of different sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.finished import FinishedLoader
from vitrail.contracts import VitrailError
from vitrail.data import FileSource, Preprocess, SizedTransform, pad_collate, pad_to_largest

BOUNDED = Preprocess((48, 80), 1.0, "bounded", "bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((96, 96), (48, 48)),
        ((96, 120), (48, 60)),
        ((120, 96), (60, 48)),
        ((24, 30), (48, 60)),
        ((100, 400), (20, 80)),
        ((400, 100), (80, 20)),
        ((1, 9_000), (1, 80)),
        ((48, 80), (48, 80)),
    ],
)
def test_the_short_side_is_reached_unless_the_long_one_would_exceed_its_bound(size, expected) -> None:
    assert BOUNDED(noise(*size)).shape == (3, *expected)


@pytest.mark.parametrize("seed", range(40))
def test_bounded_sides_equal_those_of_transformers(seed: int) -> None:
    transforms = pytest.importorskip("transformers.image_transforms")
    height, width = np.random.default_rng(seed).integers(10, 3000, 2).tolist()
    preprocess = Preprocess((800, 1333), 1.0, "bounded", "bilinear")
    expected = transforms.get_size_with_aspect_ratio((height, width), 800, 1333)
    found = preprocess(torch.zeros(3, height, width, dtype=torch.uint8)).shape[1:]
    # Where the long side binds theirs may be a pixel short of it, by rounding in floating point.
    assert all(0 <= one - other <= (one == 1333) for one, other in zip(found, expected, strict=True))


def test_bounded_pixels_are_a_plain_resize_and_every_way_in_gives_the_same_bits() -> None:
    pixels = noise(61, 90)
    resized = torch.nn.functional.interpolate(pixels[None], (48, 70), mode="bilinear", antialias=True)[0]
    assert torch.equal(BOUNDED.fit(pixels), resized)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    assert torch.equal(BOUNDED(picture), BOUNDED(pixels))
    assert Preprocess.from_dict(BOUNDED.to_dict()) == BOUNDED


def test_crops_and_a_long_side_below_the_short_one_are_refused() -> None:
    for size, crop in (((48, 80), 0.9), ((80, 48), 1.0)):
        with pytest.raises(VitrailError, match="short side and the most of the long one"):
            Preprocess(size, crop, "bounded")


def test_inputs_of_different_sizes_do_not_stack_silently() -> None:
    with pytest.raises(VitrailError, match="pad_to_largest"):
        BOUNDED.batch([noise(20, 20), noise(20, 30)])


def test_padding_keeps_every_picture_in_the_upper_left_and_the_mask_knows_it() -> None:
    images = [torch.full((3, 4, 9), 1.0), torch.full((3, 6, 5), 2.0)]
    frames, mask = pad_to_largest(images)
    assert frames.shape == (2, 3, 6, 9) and mask.shape == (2, 6, 9)
    for image, frame, present in zip(images, frames, mask, strict=True):
        assert torch.equal(frame[:, : image.shape[1], : image.shape[2]], image)
        assert int(present.sum()) == image.shape[1] * image.shape[2]
        assert not frame[:, ~present].any()
    with pytest.raises(VitrailError, match="no pictures"):
        pad_to_largest([])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_pads_pictures_of_different_sizes(workers: int, tmp_path: Path) -> None:
    sizes = [(20, 40), (33, 21), (50, 50)]
    for i, (height, width) in enumerate(sizes):
        Image.fromarray(noise(height, width, i).permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    (tmp_path / "9.png").write_bytes(b"no picture")
    source = FileSource(sorted(tmp_path.iterdir()))
    loader = FinishedLoader(
        source,
        SizedTransform(BOUNDED),
        batch_size=4,
        shuffle=False,
        drop_last=False,
        workers=workers,
        on_error="skip",
        collate=pad_collate,
    )
    (batch,) = loader.epoch(0)
    loader.close()
    assert batch.extras["size"].tolist() == [list(size) for size in sizes]
    inputs = [BOUNDED(source.pixels(i)) for i in range(3)]
    frames, mask = pad_to_largest(inputs)
    assert torch.equal(batch.images, frames) and torch.equal(batch.extras["mask"], mask)
    assert [Path(skipped.name).name for skipped in loader.skipped] == ["9.png"]
