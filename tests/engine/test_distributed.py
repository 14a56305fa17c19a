"""Two processes over gloo: the same weights as one, agreement on every stop, no deadlock when one is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vitrail.contracts import VitrailError
from vitrail.engine import World, init, load_checkpoint

from .tiny import assert_close, assert_equal
from .zygote import ROOT, Zygote


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(zygote: Zygote, out: Path, ranks: int, **arguments: Any) -> list[int]:
    out.mkdir(exist_ok=True)
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        zygote.start("rank", {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, out=str(out), **arguments)
        for rank in range(ranks)
    ]


def finish(zygote: Zygote, pids: list[int], timeout: float = 40.0) -> list[int | None]:
    statuses = [zygote.wait(pid, timeout) for pid in pids]
    for pid, status in zip(pids, statuses, strict=True):
        if status is None:
            os.kill(pid, signal.SIGKILL)
            zygote.wait(pid)
    return statuses


def outcome(out: Path, rank: int) -> dict[str, Any]:
    return json.loads((out / f"outcome-{rank}.json").read_text())


def rank_weights(out: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(out / f"weights-{rank}.safetensors")


@pytest.fixture(scope="module")
def two(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two ranks."""
    out = tmp_path_factory.mktemp("two")
    assert finish(zygote, start(zygote, out, 2)) == [0, 0], zygote.logs()
    return out


def test_two_ranks_equal_one_with_the_same_global_batch(zygote: Zygote, two: Path, tmp_path: Path) -> None:
    assert_equal(rank_weights(two, 0), rank_weights(two, 1))
    assert finish(zygote, start(zygote, tmp_path, 1, size=8)) == [0], zygote.logs()
    assert_close(rank_weights(two), rank_weights(tmp_path), atol=1e-5)
    # The table has the losses of all pictures, not of rank 0's alone.
    ours, theirs = ((out / "metrics.csv").read_text().splitlines() for out in (two, tmp_path))
    assert ours[0] == theirs[0] and len(ours) == len(theirs) == 7
    column = ours[0].split(",").index("loss")
    for left, right in zip(ours[1:], theirs[1:], strict=True):
        assert float(left.split(",")[column]) == pytest.approx(float(right.split(",")[column]), rel=1e-4)
    # Evaluations are averaged over the ranks, on both.
    assert [outcome(two, rank)["metrics"] for rank in (0, 1)] == [{"rank": 0.5}] * 2


def test_two_ranks_accumulating_with_average_and_dropout_agree(zygote: Zygote, tmp_path: Path) -> None:
    config = {"accumulate": 4, "ema_decay": 0.9}
    assert finish(zygote, start(zygote, tmp_path / "plain", 2, **config)) == [0, 0], zygote.logs()
    assert finish(zygote, start(zygote, tmp_path / "one", 1, size=8, **config)) == [0], zygote.logs()
    assert_close(rank_weights(tmp_path / "plain"), rank_weights(tmp_path / "one"), atol=1e-5)
    left, right = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("plain", "one"))
    assert_close(left, right, atol=1e-5)
    assert finish(zygote, start(zygote, tmp_path / "dropout", 2, dropout=0.2, **config)) == [0, 0], zygote.logs()
    # Batch norm's statistics are each rank's own until the next forward pass; what learns is shared.
    ours, theirs = rank_weights(tmp_path / "dropout", 0), rank_weights(tmp_path / "dropout", 1)
    learnt = {name for name in ours if "running" not in name}
    assert_equal({name: ours[name] for name in learnt}, {name: theirs[name] for name in learnt})


def test_killed_rank_ends_the_other_and_the_restart_ends_bit_equal(zygote: Zygote, two: Path, tmp_path: Path) -> None:
    statuses = finish(zygote, start(zygote, tmp_path, 2, fault="kill", at=9))
    assert statuses == [1, -signal.SIGKILL], zygote.logs()
    found = outcome(tmp_path, 0)
    assert found["kind"] == "error" and "lost contact" in found["message"] and found["seconds"] < 20
    assert finish(zygote, start(zygote, tmp_path, 2)) == [0, 0], zygote.logs()
    assert outcome(tmp_path, 0)["resumed"] and outcome(tmp_path, 1)["resumed"]
    assert_equal(rank_weights(tmp_path), rank_weights(two))


def test_hanging_rank_is_given_up_after_the_timeout(zygote: Zygote, tmp_path: Path) -> None:
    pids = start(zygote, tmp_path, 2, fault="hang", at=4, timeout=3.0)
    assert zygote.wait(pids[0], 25.0) == 1, zygote.logs()
    os.kill(pids[1], signal.SIGKILL)
    assert zygote.wait(pids[1]) == -signal.SIGKILL
    assert "lost contact" in outcome(tmp_path, 0)["message"]


def test_stop_signal_to_one_rank_stops_both(zygote: Zygote, two: Path, tmp_path: Path) -> None:
    assert finish(zygote, start(zygote, tmp_path, 2, fault="sigterm", at=8)) == [143, 143], zygote.logs()
    assert [outcome(tmp_path, rank)["kind"] for rank in (0, 1)] == ["interrupted"] * 2
    assert finish(zygote, start(zygote, tmp_path, 2)) == [0, 0], zygote.logs()
    assert_equal(rank_weights(tmp_path), rank_weights(two))


@pytest.mark.parametrize("at", [7, 8])
def test_a_broken_picture_of_one_rank_costs_no_step_of_either(
    zygote: Zygote, two: Path, tmp_path: Path, at: int
) -> None:
    statuses = finish(zygote, start(zygote, tmp_path, 2, fault="broken picture", at=at, checkpoint_every_steps=None))
    assert statuses == [1, 1], zygote.logs()
    messages = [outcome(tmp_path, rank)["message"] for rank in (0, 1)]
    assert "lost contact" in messages[0] and messages[1] == "this picture is broken"
    # The first rank is left in the midst of the step that the other one could not begin.
    found = load_checkpoint(tmp_path, print)
    assert found is not None and found.metadata["step"] == at - 1
    assert finish(zygote, start(zygote, tmp_path, 2, checkpoint_every_steps=None)) == [0, 0], zygote.logs()
    assert_equal(rank_weights(tmp_path), rank_weights(two))


def test_nan_on_one_rank_stops_both_and_is_named(zygote: Zygote, tmp_path: Path) -> None:
    assert finish(zygote, start(zygote, tmp_path, 2, fault="nan", at=6)) == [1, 1], zygote.logs()
    assert all("not finite" in outcome(tmp_path, rank)["message"] for rank in (0, 1))
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    losses = [rank["batches"][0]["losses"]["loss"] for rank in report["ranks"]]
    assert report["step"] == report["checkpoint_step"] == 5 and losses[0] > 0 and losses[1] == "nan"
    assert report["ranks"][1]["batches"][0]["names"] == [f"e0-b5-{number}.png" for number in (4, 5, 6, 7)]


def test_full_disk_on_the_main_rank_is_told_to_all(zygote: Zygote, tmp_path: Path) -> None:
    assert finish(zygote, start(zygote, tmp_path, 2, fault="full disk")) == [1, 1], zygote.logs()
    assert all("No space left" in outcome(tmp_path, rank)["message"] for rank in (0, 1))


def test_another_number_of_ranks_goes_on_when_the_global_batch_is_the_same(
    zygote: Zygote, two: Path, tmp_path: Path
) -> None:
    assert finish(zygote, start(zygote, tmp_path, 2, fault="sigterm", at=8)) == [143, 143], zygote.logs()
    assert finish(zygote, start(zygote, tmp_path, 1, size=4)) == [1]
    assert "global_batch: was 8, is 4" in outcome(tmp_path, 0)["message"]
    assert finish(zygote, start(zygote, tmp_path, 1, size=8)) == [0], zygote.logs()
    assert_close(rank_weights(tmp_path), rank_weights(two), atol=1e-5)


def test_torchrun_restarts_and_training_goes_on(two: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    command += [f"--master-port={free_port()}", "-m", "tests.engine.scenarios", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome(tmp_path, 0)["resumed"] and outcome(tmp_path, 1)["resumed"]
    assert_equal(rank_weights(tmp_path), rank_weights(two))


def test_alone_everything_is_itself() -> None:
    world = World()
    assert world.is_main and world.sum([1.5]) == [1.5] and world.max([2.0]) == [2.0]
    assert world.mean({"a": 3.0}) == {"a": 3.0} and world.gather("x") == ["x"]


def test_broken_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(VitrailError, match="WORLD_SIZE='two'"):
        init()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(VitrailError, match=r"rank 0 of 2 cannot join.*torchrun"):
        init()
