"""Killed, stopped and starved runs go on as if nothing had been: see the shared list of faults."""

from __future__ import annotations

import csv
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vitrail.contracts import Batch, VitrailError
from vitrail.engine import load_checkpoint

from .tiny import At, TinyLoader, TinyMethod, assert_equal, quiet, tiny_config, train, weights
from .zygote import Zygote


@pytest.fixture(scope="module")
def undisturbed(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    assert zygote.run("killed", out=str(out)) == 0, zygote.logs()
    return out


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "images_per_s"} for row in csv.DictReader(file)]


def assert_same_run(out: Path, reference: Path) -> None:
    ours, theirs = (load_file(folder / "checkpoint.safetensors") for folder in (out, reference))
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different
    assert rows(out) == rows(reference)


@pytest.mark.parametrize(
    ("place", "hit"),
    [
        ("before the optimiser step", 1),
        ("before the optimiser step", 7),
        ("inside the step", 2),
        ("inside the step", 12),
        ("half a checkpoint", 1),
        ("half a checkpoint", 5),
        ("before the rename", 1),
        ("before the rename", 6),
        ("between the renames", 1),
        ("between the renames", 8),
        ("after the rename", 3),
        ("after the rename", 12),
        ("half a row", 1),
        ("half a row", 9),
        ("last batch", 1),
        ("last batch", 3),
        ("validation", 1),
        ("validation", 3),
    ],
)
def test_killed_at_a_place_ends_bit_equal(
    zygote: Zygote, undisturbed: Path, tmp_path: Path, place: str, hit: int
) -> None:
    assert zygote.run("killed", out=str(tmp_path), place=place, hit=hit) == -signal.SIGKILL, zygote.logs()
    assert zygote.run("killed", out=str(tmp_path)) == 0, zygote.logs()
    assert_same_run(tmp_path, undisturbed)
    assert not list(tmp_path.glob("*.vitrail-partial"))


def test_killed_again_and_again_at_random_moments_ends_bit_equal(
    zygote: Zygote, undisturbed: Path, tmp_path: Path
) -> None:
    dice, kills = random.Random(3), 0
    while True:
        pid = zygote.start("killed", out=str(tmp_path), pause=0.01)
        status = zygote.wait(pid, timeout=dice.uniform(0.05, 0.3) * (1 + kills / 10))
        if status is None:
            os.kill(pid, signal.SIGKILL)
            status = zygote.wait(pid)
        if status == 0:
            break
        assert status == -signal.SIGKILL, zygote.logs()
        kills += 1
        # The stretches begin shorter than a run and grow, so that a busy machine gets through as well.
        assert kills < 40
    assert kills >= 2
    assert_same_run(tmp_path, undisturbed)


def wait_for_steps(out: Path, steps: int) -> None:
    deadline = time.monotonic() + 20
    told = out / "steps"
    while not told.exists() or int(told.read_text() or 0) < steps:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def members(group: int) -> list[str]:
    """Living processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def no_members(group: int, patience: float = 8.0) -> bool:
    deadline = time.monotonic() + patience
    while members(group) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not members(group)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for orphans in /proc")
@pytest.mark.parametrize(
    ("sent", "whole_group", "expected"),
    [
        ([signal.SIGTERM], False, 143),
        ([signal.SIGHUP], True, 129),
        ([signal.SIGINT], True, 130),
        ([signal.SIGINT, signal.SIGINT], True, 130),
    ],
    ids=["sigterm", "a dropped line", "ctrl-c", "ctrl-c twice"],
)
def test_signals_stop_a_run_with_workers(
    zygote: Zygote, tmp_path: Path, sent: list[int], whole_group: bool, expected: int
) -> None:
    reference, out = tmp_path / "reference", tmp_path / "out"
    reference.mkdir()
    out.mkdir()
    pid = zygote.start("with_workers", out=str(out), pause=0.01)
    wait_for_steps(out, 3)
    for number in sent:
        # A terminal sends Ctrl-C to the workers as well.
        os.kill(-pid if whole_group else pid, number)
        time.sleep(0.002)
    assert zygote.wait(pid, 20) == expected, zygote.logs()
    assert no_members(pid)
    if len(sent) == 1:
        assert (out / "checkpoint.safetensors").exists()
    assert zygote.run("with_workers", out=str(out), pause=0.0) == 0, zygote.logs()
    assert zygote.run("with_workers", out=str(reference), pause=0.0) == 0, zygote.logs()
    assert_same_run(out, reference)


def broken(batch: Batch) -> None:
    raise VitrailError(f"{batch.names[0]}: cannot be read")


@pytest.mark.parametrize(("epoch", "place"), [(0, 3), (1, 0), (1, 3), (2, 5)])
def test_a_picture_that_cannot_be_read_costs_no_step(tmp_path: Path, epoch: int, place: int) -> None:
    reference, method = TinyMethod(), TinyMethod()
    train(tmp_path / "reference", method=reference)
    out = tmp_path / "out"
    with pytest.raises(VitrailError, match=f"e{epoch}-b{place}-0.png: cannot be read"):
        train(out, loader=At(epoch, place, broken))
    found = load_checkpoint(out, print)
    assert found is not None and found.metadata["step"] == 6 * epoch + place
    loader = TinyLoader()
    train(out, method=method, loader=loader)
    assert loader.starts[0] == (epoch, place)
    assert_equal(weights(method), weights(reference))
    assert_same_run(out, tmp_path / "reference")


def test_a_first_picture_that_cannot_be_read_leaves_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(VitrailError, match="cannot be read"):
        train(tmp_path, loader=At(0, 0, broken))
    assert load_checkpoint(tmp_path, print) is None


def test_a_full_disk_does_not_hide_the_picture_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(batch: Batch) -> None:
        monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
        broken(batch)

    console = quiet()
    with pytest.raises(VitrailError, match="cannot be read"):
        train(tmp_path, loader=At(0, 3, full), console=console)
    assert "No space left" in console.file.getvalue()  # type: ignore[attr-defined]


def test_an_evaluation_that_fails_costs_no_step(tmp_path: Path) -> None:
    calls: list[int] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            raise VitrailError("held-out.png: cannot be read")
        return {"n": 1.0}

    reference, method = TinyMethod(), TinyMethod()
    config = tiny_config(ema_decay=0.9)
    train(tmp_path / "reference", config, reference, evaluate=lambda model: {"n": 1.0})
    out = tmp_path / "out"
    with pytest.raises(VitrailError, match=r"held-out.png: cannot be read"):
        train(out, config, evaluate=evaluate)
    loader = TinyLoader()
    train(out, config, method, loader, evaluate=evaluate)
    assert loader.starts[0] == (2, 0) and len(calls) == 4
    assert_equal(weights(method), weights(reference))
    assert_same_run(out, tmp_path / "reference")


def test_a_hangup_stays_ignored_where_it_is(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        train(tmp_path, loader=At(0, 3, lambda batch: os.kill(os.getpid(), signal.SIGHUP)))
    finally:
        signal.signal(signal.SIGHUP, before)
