"""The quicker JPEG decoder: used where it gives Pillow's bits, and for nothing that Pillow would refuse or turn."""

import io
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.data import BrokenPicture, jpeg, read_picture, read_pixels, to_pixels
from vitrail.data.jpeg import PlainJpeg, decoders_agree, plain_jpeg

MOST = 10**6


def opened(data: bytes, channels: int = 3, most: int = MOST) -> PlainJpeg | None:
    return plain_jpeg(data, channels, most, lambda: pytest.fail("left to Pillow"))


def picture(height: int = 61, width: int = 90, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(height)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


@pytest.fixture(autouse=True)
def agreeing() -> None:
    if not decoders_agree():
        pytest.skip("torchvision's decoder gives other bits here, and is not used")


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(61, 90), (1, 1), (17, 16), (8, 333)])
def test_the_bits_are_those_of_pillow(mode, size) -> None:
    for subsampling, progressive, quality in product((0, 1, 2), (False, True), (30, 75, 95)):
        data = encoded(picture(*size, mode), subsampling=subsampling, progressive=progressive, quality=quality)
        quick = opened(data)
        assert quick is not None and (quick.height, quick.width) == size
        assert torch.equal(quick.pixels(), to_pixels(read_picture(data, 3)))
        for channels in (1, 3):
            assert torch.equal(read_pixels(data, channels), to_pixels(read_picture(data, channels)))


def test_every_orientation_is_applied() -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(picture(), exif=exif.tobytes())
        assert (opened(data) is None) == (orientation != 1)
        assert torch.equal(read_pixels(data), to_pixels(read_picture(data)))


def test_what_is_unusual_is_left_to_pillow() -> None:
    whole = encoded(picture())
    cmyk = encoded(picture(mode="CMYK"))
    png = io.BytesIO()
    picture().save(png, "PNG")
    assert all(opened(data) is None for data in (cmyk, png.getvalue(), b"", b"text", whole + b"x"))
    assert opened(whole, channels=1) is None and opened(whole, most=61 * 90 - 1) is None
    assert torch.equal(read_pixels(cmyk), to_pixels(read_picture(cmyk)))


def test_cut_off_and_damaged_files_are_broken_in_the_same_words() -> None:
    whole = encoded(picture(), quality=90)
    rng = np.random.default_rng(0)
    damaged = [whole[: len(whole) * tenth // 10] + end for tenth in range(10) for end in (b"", b"\xff\xd9")]
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(2, len(data) - 2, 5):
            data[place] = rng.integers(256)
        damaged.append(bytes(data))
    for data in damaged:
        try:
            expected = to_pixels(read_picture(data, name="it"))
        except BrokenPicture as error:
            with pytest.raises(BrokenPicture) as told:
                read_pixels(data, name="it")
            assert str(told.value) == str(error)
        else:
            assert torch.equal(read_pixels(data, name="it"), expected)


def test_a_decoder_of_other_bits_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    real = jpeg._decode
    monkeypatch.setattr(jpeg, "_decode", lambda data, bands: real(data, bands) ^ 1)
    assert not jpeg.decoders_agree.__wrapped__()
