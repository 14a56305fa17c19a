from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.speed.bench.fakes import Failing, Parent, Sleeper, complain, die, hang
from vitrail.speed.bench import Report, compare, interleave
from vitrail.speed.bench.process import mean_seconds, reset_peak


def gone(pid: int) -> bool:
    """Whether a process has ended, a moment granted."""
    for _ in range(100):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return True
        if stat.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, list[str]]:
    """Two that finish and two that do not."""
    log = tmp_path_factory.mktemp("rounds") / "log"
    contestants = {
        "quick": Sleeper(0.02, log, "quick"),
        "complains": Failing(complain),
        "slow": Sleeper(0.12, log, "slow", pictures=8, off=0.5),
        "dies": Failing(die, late=True),
    }
    report = interleave(contestants, 3, turn_s=0.0, timeout_s=120.0)
    return report, log.read_text().splitlines()


def test_turns_are_interleaved_and_the_first_round_does_not_count(measured: tuple[Report, list[str]]) -> None:
    report, log = measured
    assert [line.split()[0] for line in log] == ["quick", "slow"] * 4
    assert len({line.split()[1] for line in log}) == 2
    assert [len(one.seconds) for one in report.finished.values()] == [3, 3]


def test_ratios_are_per_picture_and_errors_relative(measured: tuple[Report, list[str]]) -> None:
    report, _ = measured
    quick, slow = compare(report, report.finished["quick"].answer)
    assert quick.slower == 1.0 and quick.error == 0.0
    assert 2.0 < slow.slower < 3.1, "six times as long for twice the pictures"
    assert slow.pictures_per_s == pytest.approx(8 / slow.median)
    assert slow.error == pytest.approx(2.0 / 5.0)
    assert slow.notes == "sleeps 0.12" and dict(report.finished["slow"].versions) == {"clock": "1"}


def test_who_fails_is_named_with_the_reason_and_the_others_go_on(measured: tuple[Report, list[str]]) -> None:
    report, _ = measured
    assert list(report.finished) == ["quick", "slow"]
    assert report.failed["complains"] == "ValueError: no such kernel"
    assert report.failed["dies"] == "its process ended with 7: the last words"


def test_who_takes_too_long_is_ended() -> None:
    report = interleave({"hangs": Failing(hang)}, 1, timeout_s=0.5)
    assert report.failed == {"hangs": "no answer within 0.5 s"} and not report.finished


def test_no_process_is_left_however_it_ends(tmp_path: Path) -> None:
    log = tmp_path / "pids"

    def interrupt(text: str) -> None:
        if "round" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interleave({"parent": Parent(log)}, 1, said=interrupt)
    pids = [int(word) for word in log.read_text().split()]
    assert len(pids) == 2 and all(map(gone, pids))


def test_a_turn_is_the_mean_of_as_many_calls_as_fit() -> None:
    calls: list[int] = []

    def run() -> None:
        calls.append(1)
        time.sleep(0.01)

    mean = mean_seconds(run, 0.1)
    assert 2 <= len(calls) <= 10 and mean >= 0.01
    assert mean_seconds(lambda: calls.clear(), 0.0) < 0.01 and not calls


def test_the_peak_of_memory_can_be_forgotten() -> None:
    held = reset_peak()
    assert held is None or held > 10
