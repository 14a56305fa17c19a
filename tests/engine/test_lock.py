"""Two trainings on one folder: the second is refused, and finds nothing in its way once the first is gone."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vitrail.contracts import VitrailError
from vitrail.engine import LOCK, RUN_FILES, World, lock, sole_trainer

from .tiny import TinyMethod, rows, train
from .zygote import Zygote

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no such lock")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.2)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_second_training_is_refused_before_it_touches_anything(zygote: Zygote, tmp_path: Path) -> None:
    pid = zygote.start("killed", out=str(tmp_path), pause=0.1)
    wait_for(tmp_path / "checkpoint.safetensors")
    half = tmp_path / f"checkpoint.safetensors.{pid}.vitrail-partial"
    half.touch()
    with pytest.raises(VitrailError, match=rf"another process is training in {tmp_path} \(process {pid} on "):
        train(tmp_path)
    assert half.exists()
    half.unlink()
    assert zygote.wait(pid) == 0, zygote.logs()
    assert [row["step"] for row in rows(tmp_path)] == [str(step) for step in range(1, 13)]
    assert {path.name for path in tmp_path.iterdir()} <= set(RUN_FILES)


def test_a_killed_training_holds_nobody_up_nor_do_its_orphans(zygote: Zygote, tmp_path: Path) -> None:
    pid = zygote.start("with_workers", out=str(tmp_path), pause=0.05)
    wait_for(tmp_path / "steps")
    os.kill(pid, signal.SIGKILL)
    assert zygote.wait(pid) == -signal.SIGKILL
    # Torch's workers look for their parent every five seconds.
    os.kill(-pid, 0)
    assert (tmp_path / LOCK).exists()
    with sole_trainer(tmp_path, World()):
        pass
    os.killpg(pid, signal.SIGKILL)
    assert not (tmp_path / LOCK).exists()


def test_one_that_holds_the_folder_trains_there_and_another_thread_does_not(tmp_path: Path) -> None:
    with sole_trainer(tmp_path, World()):
        train(tmp_path, method=TinyMethod())
        with ThreadPoolExecutor(1) as pool, pytest.raises(VitrailError, match="another process is training"):
            pool.submit(train, tmp_path).result()
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def test_who_waits_for_a_lock_that_goes_takes_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE_S", 10.0)
    inside: list[int] = []

    def work() -> None:
        with sole_trainer(tmp_path, World()):
            inside.append(1)
            assert len(inside) == 1
            time.sleep(0.02)
            inside.pop()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(12)]:
            done.result()


def test_a_folder_on_a_disk_without_locks_can_be_trained_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    train(tmp_path)
