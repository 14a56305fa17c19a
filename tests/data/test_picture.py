"""Reading pictures: every policy of the module and every bad picture that must be refused by name."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from vitrail.contracts import VitrailError
from vitrail.data import MAX_PIXELS, BrokenPicture, list_pictures, picture, read_picture
from vitrail.data.picture import picture_size

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (9, 14, 3), dtype=np.uint8)


def encode(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def pixels(data: bytes, channels: int = 3) -> np.ndarray:
    return np.asarray(read_picture(data, channels))


# How a camera held in each of the eight ways stores the upright array (the EXIF standard's table of row 0, column 0).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_gives_the_upright_picture(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](PHOTO)))
    assert np.array_equal(pixels(encode(stored, exif=exif)), PHOTO)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_size_in_the_header_is_that_of_the_upright_picture(tmp_path, monkeypatch, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo"
    path.write_bytes(encode(Image.fromarray(PHOTO), kind, exif=exif))
    upright = read_picture(path).size
    assert upright == ((14, 9) if orientation < 5 else (9, 14))
    monkeypatch.setattr(picture, "read_picture", lambda *args, **kwargs: pytest.fail("more than the header was read"))
    assert picture_size(path) == upright


@pytest.mark.parametrize("value", [0, 9, 77])
def test_impossible_orientation_is_ignored(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(pixels(encode(Image.fromarray(PHOTO), exif=exif)), PHOTO)


def test_damaged_exif_does_not_lose_the_picture():
    data = encode(Image.fromarray(PHOTO), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(pixels(data), PHOTO)


def test_alpha_is_composited_on_white():
    colours = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 51]]], dtype=np.uint8)
    # 51 / 255 = 0.2 of the colour, 0.8 of white.
    expected = [[[10, 20, 30], [255, 255, 255], [204, 224, 244]]]
    assert pixels(encode(Image.fromarray(colours))).tolist() == expected


def test_grey_with_alpha_stays_grey():
    grey = np.array([[[0, 255], [0, 0], [100, 51]]], dtype=np.uint8)
    assert pixels(encode(Image.fromarray(grey)), 1).tolist() == [[0, 255, 224]]


def test_palette_with_transparency():
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    picture.putdata([0, 1])
    assert pixels(encode(picture, transparency=1)).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert pixels(encode(picture)).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_transparent_colour_of_rgb_and_grey():
    data = encode(Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)), transparency=(1, 2, 3))
    assert pixels(data).tolist() == [[[255, 255, 255], [4, 5, 6]]]
    data = encode(Image.fromarray(np.array([[7, 9]], dtype=np.uint8)), transparency=7)
    assert pixels(data, 1).tolist() == [[255, 9]]


def sixteen_bit_grey(levels: list[int], transparent: int) -> bytes:
    """A PNG file of one row (Pillow writes no transparent level of 16 bits)."""
    header = struct.pack(">IIBBBBB", len(levels), 1, 16, 0, 0, 0, 0)
    row = zlib.compress(b"\0" + struct.pack(f">{len(levels)}H", *levels))
    clear = struct.pack(">H", transparent)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"tRNS", clear), (b"IDAT", row), (b"IEND", b""))
    )


def test_the_transparent_level_of_sixteen_bit_grey_is_white_and_no_other():
    assert pixels(sixteen_bit_grey([0, 257, 30_000, 65_535], 0), 1).tolist() == [[255, 1, 117, 255]]
    # All 16 bits count: its neighbours, the same in 8 bits, are opaque.
    assert pixels(sixteen_bit_grey([29_999, 30_000, 30_001], 30_000)).tolist() == [[[117] * 3, [255] * 3, [117] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind):
    wide = np.array([[0, 128, 129, 257, 32_768, 65_535]], dtype=np.uint16)
    assert pixels(encode(Image.fromarray(wide), kind), 1).tolist() == [[0, 0, 1, 1, 128, 255]]


def test_sixteen_bit_big_endian_tiff():
    little = encode(Image.fromarray(np.array([[0, 513, 65_535]], dtype=np.uint16)), "TIFF")
    big = Image.frombytes("I;16B", (3, 1), np.array([0, 513, 65_535], dtype=">u2").tobytes())
    assert pixels(encode(big, "TIFF"), 1).tolist() == pixels(little, 1).tolist() == [[0, 2, 255]]


@pytest.mark.parametrize("array", [np.ones((2, 2), np.float32), np.full((2, 2), 70_000, np.int32)])
def test_pixels_without_agreed_range_are_refused(array):
    with pytest.raises(BrokenPicture, match=r"mode [FI]; convert it"):
        read_picture(encode(Image.fromarray(array), "TIFF"))


def test_one_bit():
    bits = Image.fromarray(np.array([[True, False, True]]))
    assert pixels(encode(bits), 1).tolist() == [[255, 0, 255]]
    assert pixels(encode(bits)).tolist() == [[[255] * 3, [0] * 3, [255] * 3]]


def test_cmyk_jpeg():
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = pixels(encode(ink, "JPEG", quality=100))[8, 8].tolist()
    assert red > 250 and green < 5 and blue < 5


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_give_their_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixels(data)[4, 4].tolist() == [255, 0, 0]


def test_channels_one_is_luma():
    assert (
        pixels(encode(Image.fromarray(PHOTO)), 1).tolist() == np.asarray(Image.fromarray(PHOTO).convert("L")).tolist()
    )
    with pytest.raises(VitrailError, match="1 or 3 channels, not 4"):
        read_picture(encode(Image.fromarray(PHOTO)), 4)


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
def test_extreme_shapes(size):
    picture = Image.new("RGB", size, (1, 2, 3))
    assert read_picture(encode(picture)).size == size


def test_path_bytes_and_stream_agree(tmp_path):
    data = encode(Image.fromarray(PHOTO))
    # The content decides, not the ending.
    path = tmp_path / "png named.jpg"
    path.write_bytes(data)
    with path.open("rb") as stream:
        assert np.array_equal(np.asarray(read_picture(stream)), PHOTO)
        assert not stream.closed
    assert np.array_equal(np.asarray(read_picture(path)), PHOTO)
    assert np.array_equal(np.asarray(read_picture(str(path))), PHOTO)


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_cut_off_at_every_tenth(kind, lenient, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    photo = Image.fromarray(RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    options = {"progressive": True} if kind == "progressive" else {}
    data = encode(photo, "JPEG" if kind == "progressive" else kind, **options)
    assert read_picture(data).size == (50, 40)
    for tenth in range(10):
        with pytest.raises(BrokenPicture, match=r"holiday\.jpg"):
            read_picture(data[: len(data) * tenth // 10], name="holiday.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_cut_off_anywhere_is_refused_or_harmless(kind):
    photo = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    data = encode(photo, kind)
    whole = pixels(data)
    refused = 0
    for end in [*range(0, len(data) - 40, 37), *range(len(data) - 40, len(data))]:
        try:
            assert np.array_equal(pixels(data[:end]), whole), f"cut at {end} of {len(data)}"
        except BrokenPicture:
            refused += 1
    assert refused > len(data) // 37 // 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"  \n<svg xmlns='http://www.w3.org/2000/svg'/>", "HTML or XML"),
        (b"Not found, sorry.\n", "holds text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (bytes(range(256)), "not a picture in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "holds text"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, data, reason):
    path = tmp_path / "cat.jpg"
    path.write_bytes(data)
    with pytest.raises(BrokenPicture, match=reason) as caught:
        read_picture(path)
    assert caught.value.name == str(path) and str(path) in str(caught.value)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(width: int, height: int) -> bytes:
    """A tiny PNG file that declares, and holds, a huge one-bit picture of zeros."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(13_400, 13_400), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bomb_is_refused_unread(size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(BrokenPicture, match="decompression bomb") as caught:
            read_picture(bomb(*size), name="bomb.png")
    assert f"{MAX_PIXELS:,}" in caught.value.reason


def test_bomb_limit_holds_when_warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BrokenPicture, match="decompression bomb"):
            read_picture(bomb(13_000, 13_000))


def test_files_are_never_written(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    path.write_bytes(encode(Image.fromarray(PHOTO), "JPEG", exif=exif))
    os.utime(path, ns=(10**18, 10**18))
    before = path.read_bytes(), path.stat().st_mtime_ns
    read_picture(path)
    list_pictures(tmp_path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.jpg"]
