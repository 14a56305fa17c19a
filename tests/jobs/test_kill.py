"""``kill -9`` at random moments of a real training, workers on: the same command ends with the same weights."""

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.jobs.tiny import tiny_config

KILLS = 20
DEADLINE_S = 240


def run(photos: str, out: str) -> None:
    """One start of the training, in a process of its own."""
    from vitrail.jobs.train import train

    torch.set_num_threads(1)
    train(
        tiny_config(
            Path(photos),
            Path(out),
            epochs=12,
            workers=2,
            checkpoint_every_s=0.05,
            eval_every=3,
            hflip=0.5,
            mixup=0.8,
            cutmix=1.0,
            drop_path=0.2,
            report=False,
        )
    )


def children_of(pid: int) -> list[int]:
    """Living processes whose parent is ``pid``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.timeout(DEADLINE_S + 60)
def test_twenty_kills_at_random_moments_end_bit_equal(photos: Path, tmp_path: Path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vitrail.jobs.train", "tests.jobs.test_kill"])

    def start(out: Path) -> multiprocessing.Process:
        process = context.Process(target=run, args=(str(photos), str(out)))
        process.start()
        return process

    calm = start(tmp_path / "calm")
    started = time.monotonic()
    calm.join()
    length = time.monotonic() - started
    assert calm.exitcode == 0
    expected = load_file(tmp_path / "calm" / "model" / "model.safetensors")

    moments, kills, rounds, orphans = random.Random(0), 0, 0, []
    while kills < KILLS:
        rounds += 1
        out = tmp_path / f"killed-{rounds}"
        exitcode = None
        while exitcode != 0:
            assert time.monotonic() - started < DEADLINE_S, f"only {kills} kills in {DEADLINE_S} s"
            process = start(out)
            process.join(moments.uniform(0.05, 1.0) * length)
            if process.exitcode is None and kills < KILLS:
                orphans += children_of(process.pid)
                process.kill()  # which takes it that the run may end by itself just now
            process.join()
            exitcode = process.exitcode
            kills += exitcode == -signal.SIGKILL
            assert exitcode in (0, -signal.SIGKILL), f"a restart failed with {exitcode}"
        weights = load_file(out / "model" / "model.safetensors")
        assert weights.keys() == expected.keys()
        different = [name for name in expected if not torch.equal(expected[name], weights[name])]
        assert not different, f"round {rounds} after {kills} kills: {different[:5]}"
    until = time.monotonic() + 15
    while time.monotonic() < until and any(map(is_alive, orphans)):
        time.sleep(0.2)
    assert not [pid for pid in orphans if is_alive(pid)], "workers outlived the process that was killed"
