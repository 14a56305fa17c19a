"""Parts of JPEG files: the bits of the whole, whoever decodes them, and whole pictures where parts cannot be had."""

import io
import pwd
import tempfile
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_jpeg import encoded, picture
from vitrail.building import Unavailable
from vitrail.data import BrokenPicture, jpeg, jpeg_part
from vitrail.data.jpeg import PlainJpeg, decoders_agree
from vitrail.data.jpeg_part import Box, PartDecoder, cut, part_decoder
from vitrail.data.picture import open_pixels

parts = pytest.mark.skipif(part_decoder() is None, reason="no compiler or no headers of libjpeg")


@pytest.fixture(autouse=True)
def agreeing() -> None:
    if not decoders_agree():
        pytest.skip("torchvision's decoder gives other bits here, and is not used")


def boxes(height: int, width: int, count: int = 12) -> list[Box]:
    random = np.random.default_rng(height * width)
    found = [(0, 0, height, width), (0, 0, 1, 1), (height - 1, width - 1, 1, 1), (0, width // 2, height, 1)]
    for _ in range(count):
        top, left = int(random.integers(height)), int(random.integers(width))
        found.append((top, left, int(random.integers(1, height - top + 1)), int(random.integers(1, width - left + 1))))
    return found


def opened(data: bytes, channels: int = 3) -> PlainJpeg:
    file = open_pixels(data, channels, "it")
    assert isinstance(file, PlainJpeg)
    return file


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(61, 90), (1, 1), (17, 16), (8, 333), (130, 47)])
def test_a_part_is_cut_from_the_whole_bit_by_bit(mode: str, size: tuple[int, int]) -> None:
    for subsampling, progressive, quality in product((0, 1, 2), (False, True), (30, 95)):
        file = opened(encoded(picture(*size, mode), subsampling=subsampling, progressive=progressive, quality=quality))
        for box in boxes(*size):
            assert torch.equal(file.part(box), cut(file.pixels(), box))


@parts
def test_no_more_is_decoded_than_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainJpeg, "pixels", lambda self: pytest.fail("the whole was decoded"))
    assert opened(encoded(picture())).part((20, 30, 20, 30)).shape == (3, 20, 30)


@parts
@pytest.mark.parametrize("restart", [0, 1])
def test_files_with_restart_marks(restart: int) -> None:
    file = opened(encoded(picture(200, 150), restart_marker_rows=restart, quality=90))
    for box in boxes(200, 150):
        assert torch.equal(file.part(box), cut(file.pixels(), box))


def test_a_grey_file_is_repeated_into_three_channels() -> None:
    part = opened(encoded(picture(mode="L"))).part((3, 4, 20, 30))
    assert part.shape == (3, 20, 30) and torch.equal(part[0], part[2])


def test_a_damaged_file_is_read_as_the_whole_of_it_unless_it_is_refused_for_what_lies_behind() -> None:
    sound = encoded(picture(), quality=90)
    rng = np.random.default_rng(0)
    box = (10, 20, 30, 40)
    alike = 0
    for _ in range(80):
        data = bytearray(sound)
        for place in rng.integers(2, len(data) - 2, 3):
            data[place] = rng.integers(256)
        file = open_pixels_or_reason(bytes(data))
        if not isinstance(file, PlainJpeg):
            continue
        try:
            whole = file.pixels()
        except BrokenPicture:
            with suppress(BrokenPicture):
                file.part(box)
        else:
            assert torch.equal(file.part(box), cut(whole, box))
            alike += 1
    assert alike > 20


def open_pixels_or_reason(data: bytes) -> object:
    try:
        return open_pixels(data, 3, "it")
    except BrokenPicture as error:
        return error.reason


def test_without_compiler_or_headers_the_whole_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*arguments: object) -> None:
        raise Unavailable("there is no g++")

    monkeypatch.setattr(jpeg_part, "built", unavailable)
    assert part_decoder.__wrapped__() is None
    monkeypatch.setattr(jpeg, "part_decoder", lambda: None)
    file = opened(encoded(picture()))
    assert torch.equal(file.part((3, 4, 20, 30)), cut(file.pixels(), (3, 4, 20, 30)))


@parts
def test_without_a_home_directory_and_in_a_folder_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(user: int) -> pwd.struct_passwd:
        raise KeyError(user)

    for name in ("HOME", "XDG_CACHE_HOME", "VITRAIL_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert part_decoder.__wrapped__() is not None
    (folder,) = tmp_path.iterdir()
    folder.chmod(0o777)
    # The library is there, but others may have put it there.
    assert list(folder.glob("kernels/*.so")) and part_decoder.__wrapped__() is None


@parts
def test_a_decoder_of_other_bits_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    real = PartDecoder.__call__

    def other(self: PartDecoder, data: bytes, channels: int, box: Box) -> torch.Tensor | None:
        pixels = real(self, data, channels, box)
        # Such as would come of too narrow a margin: one column is wrong.
        return pixels if pixels is None or box[1] == 0 else torch.cat([pixels[..., :-1], pixels[..., -1:] ^ 1], -1)

    monkeypatch.setattr(PartDecoder, "__call__", other)
    assert part_decoder.__wrapped__() is None


@parts
def test_a_wide_picture() -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 40_000, 3), dtype=np.uint8)).save(file, "JPEG")
    wide = opened(file.getvalue())
    for box in ((0, 39_000, 9, 1_000), (4, 0, 5, 39_999)):
        assert torch.equal(wide.part(box), cut(wide.pixels(), box))
