"""What the clock says of a machine is asked once, and no state of the cache is an error."""

from __future__ import annotations

import json
import os
import pwd
import stat
import tempfile
from pathlib import Path

import pytest
import torch

from vitrail import machine
from vitrail.speed.bench.machine import machine as bench_machine

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "of" / "vitrail" / "machine.json"
    monkeypatch.setattr(machine, "cache_file", lambda: file)
    return file


class Clock:
    def __init__(self, *answers: float) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self) -> list[float]:
        self.asked += 1
        return self.answers


def test_a_question_is_asked_once(cache: Path) -> None:
    clock = Clock(0.25, 2.0)
    assert [machine.remembered("product", CPU, clock) for _ in range(3)] == [[0.25, 2.0]] * 3
    assert clock.asked == 1
    other = Clock(9.0)
    assert machine.remembered("another", CPU, other, count=1) == [9.0]
    assert machine.remembered("product", CPU, clock) == [0.25, 2.0] and clock.asked == 1
    assert len(json.loads(cache.read_text())) == 2
    assert [path.name for path in cache.parent.iterdir()] == ["machine.json"]


def test_another_number_of_threads_is_another_machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.remembered("product", CPU, Clock(1.0, 0.5))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    again = Clock(2.0, 0.5)
    assert machine.remembered("product", CPU, again) == [2.0, 0.5] and again.asked == 1


def test_every_account_of_the_machine_names_the_same_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"model name": "Abacus 7", "cpu family": "6", "model": "143", "flags": "fpu avx2 amx_bf16"}
    monkeypatch.setattr(machine, "processor_facts", lambda: facts)
    assert machine.describe(CPU).startswith("cpu Abacus 7 6 143 amx_bf16 · ")
    assert "cores of Abacus 7; AMX-BF16; " in bench_machine()
    monkeypatch.setattr(machine, "processor_facts", dict)
    assert machine.processor_name() and not machine.processor_units()


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[1, 2]", "null", '"text"', "\x00"),
        *('{"KEY": "fast"}', '{"KEY": [-1.0, 1.0]}', '{"KEY": [true, 1.0]}', '{"KEY": [NaN, 1.0]}'),
        *('{"KEY": []}', '{"KEY": [1.0]}', '{"KEY": [1.0, 1.0, 1.0]}', '{"KEY": [Infinity, 1.0]}'),
    ],
)
def test_a_damaged_file_is_ignored_and_written_anew(cache: Path, content: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(content.replace("KEY", f"product · {machine.describe(CPU)}"))
    clock = Clock(0.5, 0.25)
    assert machine.remembered("product", CPU, clock) == [0.5, 0.25]
    assert machine.remembered("product", CPU, clock) == [0.5, 0.25] and clock.asked == 1


def test_a_folder_that_cannot_be_written_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(machine, "cache_file", lambda: tmp_path / "file" / "machine.json")
    clock = Clock(0.5, 0.25)
    assert [machine.remembered("product", CPU, clock) for _ in range(2)] == [[0.5, 0.25]] * 2
    assert clock.asked == 2


def test_what_a_measurement_raises_goes_through_and_is_not_remembered(cache: Path) -> None:
    def fails() -> list[float]:
        raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        machine.remembered("product", CPU, fails)
    assert machine.remembered("product", CPU, Clock(1.0, 2.0)) == [1.0, 2.0]


def test_a_product_that_fails_means_fp32(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(device: torch.device, dtype: torch.dtype) -> float:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(machine, "time_product", fails)
    pays, reason = machine.bf16_pays(CPU)
    assert not pays and "no such kernel" in reason


def test_the_clock_really_runs(cache: Path) -> None:
    assert 0 < machine.time_product(CPU, torch.float32) < 1
    assert machine.bf16_pays(CPU) == machine.bf16_pays(CPU)


def test_the_cache_lies_where_users_keep_theirs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine.cache_file() == tmp_path / "vitrail" / "machine.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert machine.cache_file() == Path.home() / ".cache" / "vitrail" / "machine.json"


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody that the system knows, and where its cache should be among the temporary files."""

    def unknown(user: int) -> pwd.struct_passwd:
        raise KeyError(user)

    monkeypatch.undo()
    for name in ("HOME", "XDG_CACHE_HOME", "VITRAIL_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"vitrail-{os.geteuid()}"


def test_without_a_home_it_is_a_folder_of_the_user_s_own(homeless: Path) -> None:
    assert [machine.user_cache() for _ in range(2)] == [homeless] * 2
    assert stat.S_IMODE(homeless.stat().st_mode) == 0o700
    machine.remembered("product", CPU, Clock(1.0, 2.0))
    assert (homeless / "machine.json").is_file()


@pytest.mark.parametrize("how", ["somebody else's", "open to others", "a link", "a file"])
def test_a_folder_that_others_may_have_filled_is_refused(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "somebody else's":
        user = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: user)
        homeless.with_name(f"vitrail-{user}").mkdir(mode=0o700)
    elif how == "open to others":
        homeless.mkdir()
        homeless.chmod(0o770)
    elif how == "a link":
        homeless.with_name("elsewhere").mkdir(mode=0o700)
        homeless.symlink_to(homeless.with_name("elsewhere"))
    else:
        homeless.write_text("in the way")
    with pytest.raises(OSError, match="vitrail-"):
        machine.user_cache()
    # What is only remembered is asked again; bf16 is not refused for it.
    clock = Clock(2.0, 1.0)
    assert [machine.remembered("product", CPU, clock) for _ in range(2)] == [[2.0, 1.0]] * 2 and clock.asked == 2
    monkeypatch.setattr(machine, "_product_times", lambda device: clock())
    assert machine.bf16_pays(CPU)[0]


def test_those_that_are_timed_take_turns_and_the_first_turns_do_not_count(monkeypatch):
    clock, order = [0.0], []
    costs = {"a": iter([9.0, *[2.0] * 50]), "b": iter([9.0, 5.0, 1.0, *[3.0] * 50])}

    def run(name):
        order.append(name)
        clock[0] += next(costs[name])

    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock[0])
    assert machine.best_of(lambda: run("a"), lambda: run("b")) == [2.0, 1.0]
    assert order == ["a", "b"] * (machine.REPEATS + 1)
