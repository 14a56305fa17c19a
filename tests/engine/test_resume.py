"""Runs that stop go on as if they had not; other runs are refused."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vitrail import machine
from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.engine import USUAL, Interrupted

from .tiny import (
    At,
    TinyLoader,
    TinyMethod,
    accuracy,
    assert_equal,
    quiet,
    rows,
    tiny_config,
    train,
    weights,
)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize(
    ("moment", "next_batch"),
    # A group of two batches is made while the step before it is under way (the first of an epoch is not).
    [((0, 0), (0, 2)), ((1, 2), (1, 2)), ((1, 5), (1, 4)), ((2, 1), (2, 2)), ((2, 5), (2, 4))],
)
def test_stopped_run_resumes_bit_equal(
    tmp_path: Path, number: int, code: int, moment: tuple[int, int], next_batch: tuple[int, int]
) -> None:
    config = tiny_config(ema_decay=0.9, layer_decay=0.5, accumulate=2)
    reference = TinyMethod(0.2)
    measure = accuracy(TinyLoader())
    whole = train(tmp_path / "whole", config, reference, evaluate=measure)
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    stopping = At(*moment, lambda batch: os.kill(os.getpid(), number))
    out = tmp_path / "out"
    with pytest.raises(Interrupted, match="run the same command again") as caught:
        train(out, config, TinyMethod(0.2), stopping, evaluate=measure)
    assert caught.value.exit_code == code
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    method, loader = TinyMethod(0.2, seed=9), TinyLoader()
    rest = train(out, config, method, loader, evaluate=measure)
    assert rest.resumed and not whole.resumed and rest.steps == whole.steps == 9
    assert rest.seconds_before > whole.seconds_before == 0.0
    assert loader.starts[0] == next_batch
    assert_equal(weights(method), weights(reference))
    assert_equal(weights(rest.model), weights(whole.model))
    assert rest.metrics == whole.metrics
    strip = [
        [{k: v for k, v in row.items() if k != "images_per_s"} for row in rows(tmp_path / name)]
        for name in ("out", "whole")
    ]
    assert strip[0] == strip[1]


def test_ctrl_c_twice_stops_at_once_without_a_checkpoint(tmp_path: Path) -> None:
    def twice(batch: Batch) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    loader = At(0, 3, twice)
    before = signal.getsignal(signal.SIGINT)  # not the default where the tests run in the background
    with pytest.raises(Interrupted, match="at once") as caught:
        train(tmp_path, loader=loader)
    assert caught.value.exit_code == 130
    assert not (tmp_path / "checkpoint.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_stop_during_the_evaluation_drops_it_and_resumes_with_it(tmp_path: Path) -> None:
    config = tiny_config(ema_decay=0.9)
    reference = TinyMethod()
    whole = train(tmp_path / "whole", config, reference, evaluate=lambda model: {"n": 1.0})
    finished: list[bool] = []

    def interrupted(model: nn.Module) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        finished.append(True)
        return {"n": 0.0}

    out = tmp_path / "out"
    method = TinyMethod()
    with pytest.raises(Interrupted) as caught:
        train(out, config, method, evaluate=interrupted)
    assert caught.value.exit_code == 143 and not finished and method.training
    again, loader = TinyMethod(), TinyLoader()
    rest = train(out, config, again, loader, evaluate=lambda model: {"n": 1.0})
    assert loader.starts[0] == (1, 0)
    assert_equal(weights(again), weights(reference))
    assert [row["val_n"] for row in rows(out)] == [row["val_n"] for row in rows(tmp_path / "whole")]
    assert rest.metrics == whole.metrics


def test_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = train(tmp_path, evaluate=accuracy(TinyLoader()))
    loader = TinyLoader()
    again = train(tmp_path, loader=loader, evaluate=lambda model: pytest.fail("evaluated"))
    assert loader.starts == [] and again.resumed and again.metrics == first.metrics
    assert_equal(weights(again.model), weights(first.model))


def test_checkpoints_by_time(tmp_path: Path) -> None:
    saved: list[bool] = []

    class Watching(TinyMethod):
        def after_step(self, progress: Progress) -> None:
            saved.append((tmp_path / "checkpoint.safetensors").exists())

    train(tmp_path, tiny_config(checkpoint_every_s=1e-6), Watching())
    assert saved == [False] + [True] * 17


def test_another_run_is_refused_with_a_list(tmp_path: Path) -> None:
    train(tmp_path, fingerprint={"classes": "cat dog", "model": "tiny"})
    method = TinyMethod(seed=3)
    before = weights(method)
    with pytest.raises(VitrailError) as caught:
        train(tmp_path, tiny_config(lr=0.06), method, fingerprint={"classes": "cat cow", "data": "here"})
    for part in (
        "lr: was 0.05, is 0.06",
        "classes: was cat dog, is cat cow",
        "model: was tiny, is not set",
        "data: was not set",
    ):
        assert part in str(caught.value)
    assert "weight_decay" not in str(caught.value)
    assert_equal(weights(method), before)


def test_another_batch_division_needs_the_same_global_batch(tmp_path: Path) -> None:
    def go(accumulate: int, batches: int, **fingerprint: str) -> None:
        config = tiny_config(epochs=1, accumulate=accumulate)
        train(tmp_path, config, loader=TinyLoader(batches), fingerprint=fingerprint)

    go(1, 6, global_batch="8")
    go(2, 12, global_batch="8")
    with pytest.raises(VitrailError, match="global_batch: was 8, is not set"):
        go(2, 12)
    console = quiet()
    train(
        tmp_path,
        tiny_config(epochs=1, accumulate=2),
        None,
        TinyLoader(12),
        fingerprint={"global_batch": "8"},
        console=console,
    )
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "warning: a batch is divided by 1 processes x accumulate 2, in the run so far it was by" in said
    with pytest.raises(VitrailError, match="steps_per_epoch: was 6, is 5"):
        go(2, 10, global_batch="8")


def test_auto_precision_is_kept_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(bf16: float) -> None:
        monkeypatch.setattr(machine, "cache_file", lambda: tmp_path / f"machine-{bf16}.json")
        monkeypatch.setattr(machine, "time_product", lambda _, dtype: bf16 if dtype == torch.bfloat16 else 1.0)

    clock(0.1)
    with pytest.raises(Interrupted):
        train(tmp_path, tiny_config(precision="auto"), loader=At(1, 1, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    clock(9.0)
    console = quiet()
    train(tmp_path, tiny_config(precision="auto"), console=console)
    assert "bf16: as in the run so far" in console.file.getvalue()  # type: ignore[attr-defined]


class Squaring:
    """A way to compute whose losses are unmistakably not torch's."""

    name = "squared"

    def __init__(self, quickest: bool, reason: str | None = None) -> None:
        self.quickest, self.reason = quickest, reason
        self.asked: list[str] = []
        self.on = False

    def choose(self, device: torch.device, precision: str) -> tuple[str, str]:
        self.asked.append(precision)
        return (self.name, "squared: twice as quick") if self.quickest else (USUAL, "")

    def lacking(self, name: str, device: torch.device) -> str | None:
        return self.reason if name == self.name else "unknown"

    @contextmanager
    def use(self, name: str) -> Iterator[None]:
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def method(self) -> TinyMethod:
        ways = self

        class Squared(TinyMethod):
            def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
                losses = super().forward(batch, progress)
                return {**losses, "loss": losses["loss"].square() if ways.on else losses["loss"]}

        return Squared(0.2)


def go_on(out: Path, began: Squaring, later: Squaring, precision: str = "fp32") -> tuple[dict[str, Tensor], str]:
    """The weights after a run that is stopped and goes on, and what its second part said."""
    config = tiny_config(precision=precision)
    with pytest.raises(Interrupted):
        train(out, config, began.method(), At(1, 1, lambda _: os.kill(os.getpid(), signal.SIGTERM)), ways=began)
    method, console = later.method(), quiet()
    train(out, config, method, console=console, ways=later)
    assert not began.on and not later.on
    return weights(method), console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("quickest", [True, False])
def test_the_way_to_compute_is_kept_whatever_the_clock_says_later(tmp_path: Path, quickest: bool) -> None:
    ways = Squaring(quickest)
    method = ways.method()
    train(tmp_path / "whole", method=method, ways=ways)
    later = Squaring(not quickest)
    found, said = go_on(tmp_path / "out", Squaring(quickest), later)
    assert_equal(found, weights(method))
    plain = TinyMethod(0.2)
    train(tmp_path / "plain", method=plain)
    assert torch.equal(weights(plain)["model.head.weight"], found["model.head.weight"]) != quickest
    assert later.asked == [] and ("squared: as in the run so far" in said) == quickest and "warning" not in said


def test_the_way_to_compute_is_chosen_for_the_precision_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cache_file", lambda: tmp_path / "machine.json")
    monkeypatch.setattr(machine, "time_product", lambda _, dtype: 0.1 if dtype == torch.bfloat16 else 1.0)
    ways = Squaring(True)
    go_on(tmp_path / "out", ways, ways, "auto")
    assert ways.asked == ["bf16"]


@pytest.mark.parametrize("known", [True, False])
def test_a_way_that_is_gone_is_told_of(tmp_path: Path, known: bool) -> None:
    began, later = Squaring(True), Squaring(True, "no compiler")
    if not known:  # a caller that has no ways of its own, or other ones
        later.name = "tripled"
    _, said = go_on(tmp_path / "out", began, later)
    reason = "no compiler" if known else "unknown"
    assert f"warning: squared cannot be had here ({reason}); the run so far was computed so" in said
    assert "not bit for bit" in said
    fresh, ways, method, plain = quiet(), Squaring(True, "no compiler"), later.method(), TinyMethod(0.2)
    train(tmp_path / "fresh", method=method, ways=ways, console=fresh)
    train(tmp_path / "plain", method=plain)
    assert_equal(weights(method), weights(plain))
    assert "(no compiler); computed as torch does" in fresh.file.getvalue()  # type: ignore[attr-defined]


def test_off_the_main_thread_it_trains_without_handlers(tmp_path: Path) -> None:
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(train(tmp_path).steps))
    thread.start()
    thread.join(30)
    assert done == [18]
