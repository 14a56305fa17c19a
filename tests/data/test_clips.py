"""Clips of every kind give the frames that were put in; broken ones are named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.finished import FinishedLoader
from vitrail.contracts import VitrailError
from vitrail.data import (
    Augment,
    BrokenPicture,
    ClipSource,
    ClipTransform,
    Preprocess,
    TrainTransform,
    list_clips,
    open_clip,
)
from vitrail.data.clip import frame_numbers
from vitrail.data.sources import open_clips

LEVELS = [0, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220]
"""The grey of each frame, by which it is known again."""


def pictures(size: tuple[int, int] = (10, 8), levels: list[int] = LEVELS) -> list[Image.Image]:
    return [Image.new("RGB", size, (level,) * 3) for level in levels]


def write(path: Path, levels: list[int] = LEVELS) -> Path:
    """A clip of the kind that the ending says; a folder without one."""
    frames = pictures(levels=levels)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, np.stack([np.asarray(frame) for frame in frames]))
    elif not path.suffix:
        path.mkdir()
        for number, frame in enumerate(frames):
            frame.save(path / f"frame{number}.png")
    else:
        kind = {"lossless": True} if path.suffix == ".webp" else {}
        form = "PNG" if path.suffix in (".apng", ".png") else None
        frames[0].save(path, form, save_all=True, append_images=frames[1:], duration=40, **kind)
    return path


KINDS = ["folder", "clip.gif", "clip.webp", "clip.apng", "clip.png", "clip.npy"]
every_kind = pytest.mark.parametrize("name", KINDS)


@every_kind
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_gives_its_frames_in_order(name: str, channels: int, tmp_path: Path) -> None:
    clip = open_clip(write(tmp_path / name), channels)
    assert len(clip) == 12
    frames = clip.frames([1, 4, 10, 11])
    assert frames.shape == (4, channels, 8, 10) and frames.dtype == torch.uint8
    assert frames.amin((1, 2, 3)).tolist() == frames.amax((1, 2, 3)).tolist() == [20, 80, 200, 220]


def test_grey_arrays_and_transparent_frames(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", np.full((3, 8, 10), 7, np.uint8))
    assert open_clip(tmp_path / "grey.npy").frames([0, 2]).tolist() == torch.full((2, 3, 8, 10), 7).tolist()
    clear = [Image.new("RGBA", (10, 8), (10, 10, 10, 0)) for _ in range(2)]
    clear[1].putpixel((0, 0), (10, 10, 10, 255))
    clear[0].save(tmp_path / "clear.png", save_all=True, append_images=clear[1:])
    frames = open_clip(tmp_path / "clear.png").frames([0, 1])
    assert frames[0].min() == 255 and frames[1, :, 0, 0].tolist() == [10, 10, 10] and frames[1, 0, 3, 3] == 255


@pytest.mark.parametrize(
    ("available", "count", "stride", "start", "expected"),
    [
        (12, 4, 2, 0.0, [0, 2, 4, 6]),
        (12, 4, 2, 0.999, [5, 7, 9, 11]),
        (12, 4, 4, 0.0, [0, 3, 6, 9]),  # 13 frames would be needed: the stride shrinks to 3.
        (12, 4, 4, 0.999, [2, 5, 8, 11]),
        (4, 4, 8, 0.5, [0, 1, 2, 3]),
        (5, 1, 4, 0.999, [4]),
    ],
)
def test_frames_are_taken_with_the_stride_that_fits(
    available: int, count: int, stride: int, start: float, expected: list[int]
) -> None:
    assert frame_numbers(available, count, stride, start) == expected


def test_a_clip_that_is_too_short_is_broken(tmp_path: Path) -> None:
    source = ClipSource([write(tmp_path / "short.gif", LEVELS[:3])], frames=4)
    with pytest.raises(BrokenPicture, match=r"short\.gif: too short: it has 3 frames, 4 are needed"):
        source.pixels(0)


def broken(path: Path, how: str) -> Path:
    if how == "cut off":
        whole = write(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "empty":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("<html>not found</html>")
    return path


@pytest.mark.parametrize("how", ["cut off", "empty", "text", "missing"])
@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.apng", "a.npy"])
def test_broken_files_are_named(name: str, how: str, tmp_path: Path) -> None:
    path = broken(tmp_path / name, how)
    with pytest.raises(BrokenPicture, match=name.replace(".", r"\.")):
        clip = open_clip(path)
        clip.frames(range(len(clip)))
        assert len(clip) == 12, "part of a clip passes for the whole"


def test_objects_in_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BrokenPicture, match="no array that can be read"):
        open_clip(tmp_path / "evil.npy")
    np.save(tmp_path / "floats.npy", np.zeros((3, 4, 4)))
    with pytest.raises(BrokenPicture, match=r"not \(3, 4, 4\) of float64"):
        open_clip(tmp_path / "floats.npy")


def test_a_broken_frame_and_frames_of_two_sizes_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "clip")
    (folder / "frame3.png").write_bytes((folder / "frame3.png").read_bytes()[:40])
    clip = open_clip(folder)
    assert clip.frames([0, 1]).shape[0] == 2  # What is not asked for is not read.
    with pytest.raises(BrokenPicture, match=r"frame3\.png"):
        clip.frames([2, 3])
    pictures((12, 8))[0].save(folder / "frame3.png")
    with pytest.raises(BrokenPicture, match="8 x 10 and 8 x 12"):
        clip.frames([2, 3])


def test_a_folder_is_searched_for_clips_of_all_kinds(tmp_path: Path) -> None:
    for name in ("a/one", "a/two", "b.gif", "animations/x.webp", "animations/y.webp", "c/deep/z.npy"):
        write(tmp_path / name)
    for name in (".hidden", "a/one/.thumbs"):
        write(tmp_path / name, LEVELS[:2])
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in list_clips(tmp_path)]
    assert found == ["a/one", "a/two", "animations/x.webp", "animations/y.webp", "b.gif", "c/deep/z.npy"]
    (tmp_path / "none").mkdir()
    with pytest.raises(VitrailError, match="no clips there"):
        list_clips(tmp_path / "none")
    with pytest.raises(VitrailError, match="no such folder"):
        list_clips(tmp_path / "nowhere")


def test_links_are_followed_once_and_never_to_a_folder_above(tmp_path: Path) -> None:
    for name in ("above.gif", "clips/a.gif", "elsewhere/b.gif"):
        write(tmp_path / name)
    (tmp_path / "clips" / "up").symlink_to(tmp_path, target_is_directory=True)
    for name in ("1", "2"):
        (tmp_path / "clips" / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    found = [path.relative_to(tmp_path).as_posix() for path in list_clips(tmp_path / "clips")]
    assert found == ["clips/1/b.gif", "clips/a.gif"]


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.gif")
    write(tmp_path / "locked" / "b.gif")
    listed = os.scandir

    def scandir(folder: str) -> object:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(VitrailError, match=r"cannot be listed: .*Permission denied"):
        list_clips(tmp_path)


@pytest.mark.parametrize("ending", [".gif", ".npy"])
def test_what_is_no_file_is_told_as_for_pictures(ending: str, tmp_path: Path) -> None:
    link, pipe = tmp_path / f"link{ending}", tmp_path / f"pipe{ending}"
    link.symlink_to(tmp_path / "nothing")
    os.mkfifo(pipe)
    for path, reason in ((link, "a symbolic link to nothing"), (pipe, "not a regular file")):
        with pytest.raises(BrokenPicture, match=reason):
            open_clip(path)
    with pytest.raises(BrokenPicture, match="not a possible file name"):
        open_clip(f"nul\0byte{ending}")


def test_a_frame_that_is_a_link_to_nothing_is_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "clip")
    (tmp_path / "clip" / "frame3.png").unlink()
    (tmp_path / "clip" / "frame3.png").symlink_to(tmp_path / "nothing")
    clip = open_clip(tmp_path / "clip")
    assert len(clip) == 12
    with pytest.raises(BrokenPicture, match=r"frame3\.png: a symbolic link to nothing"):
        clip.frames([3])


def test_training_begins_anywhere_and_the_same_seed_begins_there_again(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.gif")
    splits = open_clips(tmp_path, frames=4, stride=2, val_fraction=0.25)
    assert (len(splits.train), len(splits.val)) == (3, 1)
    transform = ClipTransform(Preprocess(size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3), None)

    def starts(workers: int, epoch: int) -> list[int]:
        loader = FinishedLoader(splits.train, transform, batch_size=3, workers=workers, shuffle=False, seed=1)
        (batch,) = loader.epoch(epoch)
        assert batch.images.shape == (3, 3, 4, 8, 8)
        levels = (batch.images[:, 0, :, 4, 4] * 255).round().int()
        assert (levels.diff(dim=1) == 40).all()
        loader.close()
        return levels[:, 0].tolist()

    assert starts(0, 0) == starts(0, 0) == starts(2, 0)
    assert len({tuple(starts(0, epoch)) for epoch in range(4)}) > 1
    held = {tuple(splits.val.pixels(0)[:, 0, 0, 0].tolist()) for _ in range(3)}
    assert held == {(60, 100, 140, 180)}  # In the middle, always.


def test_broken_clips_stop_the_run_or_are_listed(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.gif") for number in range(3)]
    broken(paths[1], "cut off")
    source = ClipSource(paths, frames=12, stride=1)
    transform = ClipTransform(Preprocess(size=(8, 8)), None)
    with pytest.raises(VitrailError, match=r"1\.gif"):
        list(FinishedLoader(source, transform, batch_size=3).epoch(0))
    loader = FinishedLoader(source, transform, batch_size=3, on_error="skip")
    (batch,) = loader.epoch(0)
    assert len(batch) == 2 and [Path(name).name for name, _ in loader.skipped] == ["1.gif"]


def test_train_and_val_folders_are_kept_and_a_single_clip_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train" / "a.gif"), write(tmp_path / "train" / "b.gif"), write(tmp_path / "val" / "c.gif")
    splits = open_clips(tmp_path, 4, 1)
    assert [Path(splits.train.name(n)).name for n in range(len(splits.train))] == ["a.gif", "b.gif"]
    assert [Path(splits.val.name(n)).name for n in range(len(splits.val))] == ["c.gif"]
    assert splits.val.picture(0).size == (10, 8)
    with pytest.raises(VitrailError, match="the only clip"):
        open_clips(tmp_path / "val", 4, 1)


@pytest.mark.parametrize("held", ["valid", "validation", "test"])
def test_clips_held_out_under_another_name_are_not_trained_on(held: str, tmp_path: Path) -> None:
    for name in ("train/a.gif", "train/b.gif", f"{held}/c.gif"):
        write(tmp_path / name)
    splits = open_clips(tmp_path, 4, 1)
    assert [Path(splits.train.name(n)).name for n in range(len(splits.train))] == ["a.gif", "b.gif"]
    assert [Path(splits.val.name(n)).name for n in range(len(splits.val))] == ["c.gif"]


@pytest.mark.parametrize("size", [(8, 4), (4, 8), (8, 8)])
def test_what_is_mirrored_stays_in_its_frame(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(60, 256, (2, 3, *size), generator=generator).to(torch.uint8)
    preprocess = Preprocess(size=(8, 8), crop=1.0, resize="longest")
    augment = Augment(scale=None, hflip=1.0, vflip=1.0, randaugment=None, erasing=0.0)
    view = ClipTransform(preprocess, augment)(clip).finished()
    for frame, seen in zip(clip, view.unbind(1), strict=True):
        assert torch.equal(seen, preprocess(frame.flip(1, 2)))
        # As a picture is.
        assert torch.equal(seen, TrainTransform(preprocess, augment)(frame).finished())


def test_all_frames_of_a_clip_are_cropped_and_mirrored_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    still = torch.randint(256, (1, 3, 20, 24), generator=generator).to(torch.uint8).expand(5, -1, -1, -1)
    preprocess = Preprocess(size=(16, 16))
    torch.manual_seed(3)
    view = ClipTransform(preprocess, Augment(randaugment=None, erasing=0.0))(still).finished()
    assert view.shape == (3, 5, 16, 16)
    assert all(torch.equal(view[:, 0], view[:, t]) for t in range(5))
    plain = ClipTransform(preprocess)(still).finished()
    assert torch.equal(plain[:, 2], preprocess(still[2]))
    with pytest.raises(VitrailError, match="random crops and flips only"):
        ClipTransform(preprocess, Augment())
