"""Checkpoints survive full disks, flipped bits and torn files, and are never half-loaded."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vitrail.contracts import VitrailError
from vitrail.engine import (
    RUN_FILES,
    EngineConfig,
    checkpoint,
    load_checkpoint,
    method_state,
    read_checkpoint,
    save_checkpoint,
)

from .tiny import At, TinyLoader, TinyMethod, assert_equal, quiet, tiny_config, train, weights

CURRENT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {
        "a": torch.full((4, 5), value),
        "scalar": torch.tensor(3.5),
        "half": torch.ones(7, dtype=torch.bfloat16),
        "count": torch.tensor([1, 2]),
        "empty": torch.zeros(0, 3),
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder whose current checkpoint holds 2 and whose previous one holds 1."""
    save_checkpoint(tmp_path, tensors(1.0), {"step": 1})
    save_checkpoint(tmp_path, tensors(2.0), {"step": 2})
    return tmp_path


def silent(text: str) -> None:
    pytest.fail(f"unexpected warning: {text}")


def test_round_trip_keeps_two(saved: Path) -> None:
    found = load_checkpoint(saved, silent)
    assert found is not None and found.metadata["step"] == 2
    assert_equal(found.tensors, tensors(2.0))
    assert sorted(path.name for path in saved.iterdir()) == [PREVIOUS, CURRENT]
    assert torch.equal(load_file(saved / PREVIOUS)["a"], torch.full((4, 5), 1.0))


def test_nothing_there_is_no_error(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, silent) is None


@pytest.mark.parametrize("tenth", range(10))
def test_cut_off_falls_back(saved: Path, tenth: int) -> None:
    path = saved / CURRENT
    os.truncate(path, path.stat().st_size * tenth // 10)
    warnings: list[str] = []
    found = load_checkpoint(saved, warnings.append)
    assert found is not None and found.metadata["step"] == 1
    assert_equal(found.tensors, tensors(1.0))
    assert len(warnings) == 1 and CURRENT in warnings[0] and PREVIOUS in warnings[0]
    # The damaged one must not push the good one out at the next save.
    assert not path.exists()
    save_checkpoint(saved, tensors(3.0), {"step": 3})
    assert torch.equal(load_file(saved / PREVIOUS)["a"], torch.full((4, 5), 1.0))


def test_every_flipped_bit_is_noticed(saved: Path) -> None:
    good = (saved / CURRENT).read_bytes()
    for place in range(0, len(good), 3):
        flipped = bytearray(good)
        flipped[place] ^= 1 << (place % 8)
        (saved / CURRENT).write_bytes(flipped)
        warnings: list[str] = []
        found = load_checkpoint(saved, warnings.append)
        assert found is not None and found.metadata["step"] == 1 and warnings, f"byte {place}"


def test_missing_current_takes_the_previous(saved: Path) -> None:
    (saved / CURRENT).unlink()
    found = load_checkpoint(saved, silent)
    assert found is not None and found.metadata["step"] == 1


def test_both_bad_says_what_to_do(saved: Path) -> None:
    for name in (CURRENT, PREVIOUS):
        os.truncate(saved / name, 40)
    with pytest.raises(VitrailError, match=r"no checkpoint can be used.*another output folder"):
        load_checkpoint(saved, silent)
    assert (saved / CURRENT).exists() and (saved / PREVIOUS).exists()


@pytest.mark.parametrize(
    "fault",
    [OSError(12, "Cannot allocate memory"), MemoryError("Cannot allocate memory"), RuntimeError("unable to mmap")],
    ids=["system", "python", "torch"],
)
def test_what_cannot_be_read_now_is_not_taken_for_damaged(
    saved: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise fault

    monkeypatch.setattr(checkpoint, "safe_open", refuse)
    for read in (load_checkpoint, read_checkpoint):
        with pytest.raises(VitrailError, match=rf"{CURRENT} cannot be read now \(.*(memory|mmap).*may well be whole"):
            read(saved, silent)
    monkeypatch.undo()
    assert sorted(path.name for path in saved.iterdir()) == [PREVIOUS, CURRENT]
    found = load_checkpoint(saved, silent)
    assert found is not None and found.metadata["step"] == 2


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO], ids=["rights", "disk"])
def test_a_file_that_cannot_be_opened_is_named_with_the_reason(
    saved: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(self: Path, *arguments: object, **keywords: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(VitrailError, match=rf"{CURRENT} cannot be read now \(.*{os.strerror(number)}"):
        load_checkpoint(saved, silent)
    monkeypatch.undo()
    assert sorted(path.name for path in saved.iterdir()) == [PREVIOUS, CURRENT]


def test_a_damaged_one_stays_while_the_previous_cannot_be_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(saved / CURRENT, 40)
    opened = checkpoint.safe_open

    def flaky(path: Path, framework: str):  # type: ignore[no-untyped-def]  # whatever the library gives
        if path.name == PREVIOUS:
            raise OSError(12, "Cannot allocate memory")
        return opened(path, framework)

    monkeypatch.setattr(checkpoint, "safe_open", flaky)
    with pytest.raises(VitrailError, match=f"{PREVIOUS} cannot be read now"):
        load_checkpoint(saved, silent)
    assert sorted(path.name for path in saved.iterdir()) == [PREVIOUS, CURRENT]


def test_reading_another_runs_folder_changes_nothing_there(saved: Path) -> None:
    os.truncate(saved / CURRENT, 40)
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    warnings: list[str] = []
    found = read_checkpoint(saved, warnings.append)
    assert found is not None and found.metadata["step"] == 1
    assert len(warnings) == 1 and "passed over" in warnings[0] and PREVIOUS in warnings[0]
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_foreign_file_and_newer_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(tensors(1.0), tmp_path / CURRENT)
    with pytest.raises(VitrailError, match="not a checkpoint of this engine"):
        load_checkpoint(tmp_path, silent)
    monkeypatch.setattr(checkpoint, "_FORMAT", 99)
    save_checkpoint(tmp_path, tensors(1.0), {})
    monkeypatch.undo()
    with pytest.raises(VitrailError, match="format 99"):
        load_checkpoint(tmp_path, silent)


def test_nan_is_neither_written_nor_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {**tensors(3.0), "a": torch.tensor([1.0, float("nan")])}
    with pytest.raises(VitrailError, match="NaN in a"):
        save_checkpoint(saved, bad, {"step": 3})
    assert_equal(load_file(saved / CURRENT), tensors(2.0))
    monkeypatch.setattr(checkpoint, "_with_nan", lambda tensors: [])
    save_checkpoint(saved, bad, {"step": 3})
    monkeypatch.undo()
    warnings: list[str] = []
    found = load_checkpoint(saved, warnings.append)
    assert found is not None and found.metadata["step"] == 2 and "NaN in a" in warnings[0]


def test_infinity_is_not_taken_for_nan(tmp_path: Path) -> None:
    mask = {"mask": torch.tensor([float("inf"), float("-inf")])}
    save_checkpoint(tmp_path, mask, {})
    found = load_checkpoint(tmp_path, silent)
    assert found is not None and torch.equal(found.tensors["mask"], mask["mask"])


def test_full_disk_by_file_size_limit(saved: Path) -> None:
    before = (saved / CURRENT).read_bytes(), (saved / PREVIOUS).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(VitrailError, match=f"cannot write {saved / CURRENT}"):
            save_checkpoint(saved, tensors(3.0), {"step": 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ((saved / CURRENT).read_bytes(), (saved / PREVIOUS).read_bytes()) == before
    assert len(list(saved.iterdir())) == 2


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failing_system_calls_keep_the_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(VitrailError, match="No space left"):
        save_checkpoint(saved, tensors(3.0), {"step": 3})
    monkeypatch.undo()
    found = load_checkpoint(saved, silent)
    assert found is not None and found.metadata["step"] == 2
    assert not list(saved.glob("*.vitrail-partial"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("cannot mount a small disk here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_run_whose_disk_fills_up_goes_on_when_there_is_room(
    small_disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = tiny_config(checkpoint_every_steps=2, ema_decay=0.9)
    loader = FillingLoader(small_disk / "ballast")
    with pytest.raises(VitrailError, match=r"cannot write .*checkpoint\.safetensors.*run the same command again"):
        train(small_disk, config, loader=loader)
    (small_disk / "ballast").unlink()
    method = TinyMethod()
    result = train(small_disk, config, method)
    reference = TinyMethod()
    train(tmp_path_factory.mktemp("reference"), config, reference)
    assert result.resumed
    assert_equal(weights(method), weights(reference))


class FillingLoader(TinyLoader):
    """Fills the disk before batch 3 of epoch 1."""

    def __init__(self, ballast: Path) -> None:
        super().__init__()
        self.ballast = ballast

    def batch(self, epoch: int, place: int):  # type: ignore[no-untyped-def]  # as in the parent
        if (epoch, place) == (1, 3):
            with contextlib.suppress(OSError):
                self.ballast.write_bytes(bytes(1 << 20))
        return super().batch(epoch, place)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(VitrailError, match=r"cannot create the output folder .*file/run"):
        train(tmp_path / "file" / "run")


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: object, **keywords: object) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(VitrailError, match=f"cannot write {tmp_path}.*Read-only file system"):
        train(tmp_path)


def finished(out: Path, config: EngineConfig) -> TinyMethod:
    method = TinyMethod()
    train(out, config, method)
    return method


def test_run_with_a_damaged_checkpoint_ends_the_same(tmp_path: Path) -> None:
    config = tiny_config(checkpoint_every_steps=5)
    reference = finished(tmp_path / "reference", config)
    out = tmp_path / "out"
    finished(out, config)
    os.truncate(out / CURRENT, 1000)
    console, method = quiet(), TinyMethod()
    result = train(out, config, method, console=console)
    assert result.resumed
    assert_equal(weights(method), weights(reference))
    assert "warning: damaged checkpoint" in console.file.getvalue()  # type: ignore[attr-defined]


def test_checkpoint_that_does_not_fit_is_refused_whole(tmp_path: Path) -> None:
    finished(tmp_path, tiny_config())
    stored = load_file(tmp_path / CURRENT)
    found = load_checkpoint(tmp_path, silent)
    assert found is not None
    del stored["method/model.head.bias"]
    stored["method/model.neck.bias"] = torch.zeros(2)
    stored["method/model.embed.weight"] = torch.zeros(8, 13)
    save_checkpoint(tmp_path, stored, found.metadata)
    method = TinyMethod(seed=5)
    before = weights(method)
    with pytest.raises(VitrailError) as caught:
        train(tmp_path, method=method)
    for part in ("missing model.head.bias", "unexpected model.neck.bias", "model.embed.weight is (8, 13)"):
        assert part in str(caught.value)
    assert_equal(weights(method), before)


def test_stray_partial_files_are_swept(tmp_path: Path) -> None:
    # A number that no system gives.
    stray = tmp_path / f"{CURRENT}.{2**22 + 1}.vitrail-partial"
    stray.write_bytes(b"half")
    other = tmp_path / "download.partial"
    other.write_text("mine")
    console = quiet()
    train(tmp_path, console=console)
    assert not stray.exists() and other.read_text() == "mine"
    assert stray.name in console.file.getvalue()  # type: ignore[attr-defined]


def test_names_of_all_that_a_run_leaves_and_of_what_a_checkpoint_holds(tmp_path: Path) -> None:
    config = tiny_config(checkpoint_every_steps=5)
    method = finished(tmp_path, config)
    found = read_checkpoint(tmp_path, silent)
    assert found is not None
    assert_equal(method_state(found.tensors), weights(method))
    (tmp_path / "checkpoint.safetensors").unlink()
    (tmp_path / "checkpoint.previous.safetensors").unlink()
    finished(tmp_path, config)
    os.truncate(tmp_path / CURRENT, 1000)
    finished(tmp_path, config)
    with pytest.raises(VitrailError, match="not finite"):
        train(tmp_path / "nan", method=TinyMethod(), loader=At(0, 3, lambda batch: batch.images.fill_(float("nan"))))
    (tmp_path / "nan" / "nonfinite.json").replace(tmp_path / "nonfinite.json")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == set(RUN_FILES)
