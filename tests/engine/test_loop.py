"""The loop in one process: exact resume, honest averages, refusals, records."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.engine import Interrupted, schedule_factor
from vitrail.engine.randomness import derive_seed

from .tiny import (
    TinyLoader,
    TinyMethod,
    accuracy,
    assert_close,
    assert_equal,
    quiet,
    tiny_config,
    train,
    weights,
)


class At(TinyLoader):
    """Calls ``act(batch)`` when a certain batch is made."""

    def __init__(self, epoch: int, place: int, act: Callable[[Batch], object], **sizes: int) -> None:
        super().__init__(**sizes)
        self.moment, self.act = (epoch, place), act

    def batch(self, epoch: int, place: int) -> Batch:
        batch = super().batch(epoch, place)
        if (epoch, place) == self.moment:
            self.act(batch)
        return batch


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# ── what a step computes ─────────────────────────────────────────────────────────────────────────────────────────


def test_loop_equals_the_same_steps_by_hand(tmp_path: Path) -> None:
    method, plain = TinyMethod(), TinyMethod()
    config = tiny_config(epochs=2, clip_norm=0.5)
    train(tmp_path, config, method)
    matrices = [parameter for parameter in plain.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in plain.parameters() if parameter.ndim == 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=0.05
    )
    loader, step = TinyLoader(), 0
    for epoch in range(2):
        for batch in loader.epoch(epoch):
            for group in optimiser.param_groups:
                group["lr"] = 0.05 * schedule_factor(step, 12, 2, 1e-4 / 0.05, 1e-3 / 0.05)
            optimiser.zero_grad()
            plain(batch, Progress(step, 12, epoch, 2))["loss"].backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            optimiser.step()
            step += 1
    assert_close(weights(method), weights(plain))


def test_accumulated_unequal_batches_equal_one_big_batch(tmp_path: Path) -> None:
    class Joined(TinyLoader):
        """The same pictures, two batches in one."""

        def __len__(self) -> int:
            return 2

        def epoch(self, epoch: int, start: int = 0):  # type: ignore[no-untyped-def]  # as in the parent
            for place in range(start, 2):
                parts = [self.batch(epoch, 2 * place), self.batch(epoch, 2 * place + 1)]
                labels = [part.labels for part in parts if part.labels is not None]
                yield Batch(
                    torch.cat([part.images for part in parts]),
                    torch.cat(labels),
                    torch.cat([part.indices for part in parts]),
                    parts[0].names + parts[1].names,
                )

    small, big = TinyMethod(), TinyMethod()
    train(tmp_path / "small", tiny_config(accumulate=2), small, TinyLoader(batches=4, size=5, last=1))
    train(tmp_path / "big", tiny_config(), big, Joined(batches=4, size=5, last=1))
    assert_close(weights(small), weights(big))
    # The logged means are weighted alike.
    left, right = (float(rows(tmp_path / name)[0]["loss"]) for name in ("small", "big"))
    assert left == pytest.approx(right, rel=1e-5)


def test_progress_and_after_step(tmp_path: Path) -> None:
    seen: list[tuple[str, Progress]] = []

    class Watching(TinyMethod):
        def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
            seen.append(("forward", progress))
            return super().forward(batch, progress)

        def after_step(self, progress: Progress) -> None:
            seen.append(("after", progress))

    train(tmp_path, tiny_config(epochs=2, accumulate=2), Watching(), TinyLoader(batches=3))
    steps = [(kind, progress.step, progress.epoch) for kind, progress in seen]
    assert steps == [
        *[("forward", 0, 0), ("forward", 0, 0), ("after", 0, 0), ("forward", 1, 0), ("after", 1, 0)],
        *[("forward", 2, 1), ("forward", 2, 1), ("after", 2, 1), ("forward", 3, 1), ("after", 3, 1)],
    ]
    assert all(progress.total_steps == 4 and progress.total_epochs == 2 for _, progress in seen)


def test_model_randomness_is_a_function_of_place(tmp_path: Path) -> None:
    drawn: list[float] = []

    class Drawing(TinyMethod):
        def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
            drawn.append(float(torch.rand(())))
            return super().forward(batch, progress)

    state = torch.get_rng_state()
    train(tmp_path, tiny_config(epochs=1, accumulate=2, seed=7), Drawing(), TinyLoader(batches=4))
    expected = []
    for step, micro in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        generator = torch.Generator().manual_seed(derive_seed(7, step, micro, 0))
        expected.append(float(torch.rand((), generator=generator)))
    assert drawn == expected
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(tmp_path: Path, precision: str) -> None:
    class Separable(TinyLoader):
        def batch(self, epoch: int, place: int) -> Batch:
            batch = super().batch(epoch, place)
            assert batch.labels is not None
            batch.images[:, 0, 0, 0] = 3.0 * (batch.labels.float() - 1)
            return batch

    loader = Separable(size=16)
    config = tiny_config(epochs=6, precision=precision)
    dtypes: set[torch.dtype] = set()
    method = TinyMethod()
    method.model.head.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    result = train(tmp_path, config, method, loader, evaluate=accuracy(loader))
    assert result.metrics["accuracy"] == 1.0
    assert dtypes == {torch.float32 if precision == "fp32" else torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in method.parameters())


def test_compiled_run_equals_the_plain_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    # Without the slow code generation: what is ours is that the method goes through the compiler and learns the same.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain, compiled = TinyMethod(), TinyMethod()
    train(tmp_path / "plain", tiny_config(epochs=2), plain)
    assert not graphs
    result = train(tmp_path / "compiled", tiny_config(epochs=2, compile=True), compiled)
    assert 1 <= len(graphs) <= 3, "compiled anew at every step"
    assert_equal(weights(plain), weights(compiled))
    # The checkpoint carries the method's own names, so the run may go on without the compiler.
    assert train(tmp_path / "compiled", tiny_config(epochs=2)).resumed
    assert_equal(weights(result.model), weights(plain.model))


# ── resume ───────────────────────────────────────────────────────────────────────────────────────────────────────


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
    with pytest.raises(Interrupted, match="at once") as caught:
        train(tmp_path, loader=loader)
    assert caught.value.exit_code == 130
    assert not (tmp_path / "checkpoint.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
    with pytest.raises(VitrailError, match="steps_per_epoch: was 6, is 5"):
        go(2, 10, global_batch="8")


def test_auto_precision_is_kept_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrail.engine import precision

    def clock(bf16: float) -> None:
        monkeypatch.setattr(precision, "time_product", lambda _, dtype: bf16 if dtype == torch.bfloat16 else 1.0)

    clock(0.1)
    with pytest.raises(Interrupted):
        train(tmp_path, tiny_config(precision="auto"), loader=At(1, 1, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    clock(9.0)
    console = quiet()
    train(tmp_path, tiny_config(precision="auto"), console=console)
    assert "bf16: as in the run so far" in console.file.getvalue()  # type: ignore[attr-defined]


def test_off_the_main_thread_it_trains_without_handlers(tmp_path: Path) -> None:
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(train(tmp_path).steps))
    thread.start()
    thread.join(30)
    assert done == [18]


# ── numbers that are not finite, memory that runs out ────────────────────────────────────────────────────────────


def poison(batch: Batch) -> None:
    batch.images[2, 0, 0, 0] = float("nan")


def test_nan_in_the_loss_stops_before_the_step(tmp_path: Path) -> None:
    method = TinyMethod()
    config = tiny_config(checkpoint_every_steps=1, accumulate=2, ema_decay=0.9, seed=11)
    with pytest.raises(VitrailError, match=r"step 4 \(epoch 1\).*last checkpoint are healthy.*nonfinite\.json"):
        train(tmp_path, config, method, At(1, 3, poison))
    healthy = TinyMethod(seed=4)
    with pytest.raises(VitrailError, match="step 4"):
        train(tmp_path, config, healthy, At(1, 3, poison))
    assert_equal(weights(method), weights(healthy))
    assert all(torch.isfinite(value).all() for value in weights(method).values())
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert (report["step"], report["epoch"]) == (4, 1)
    (mine,) = report["ranks"]
    assert mine["batches"][1]["names"] == [f"e1-b3-{number}.png" for number in range(4)]
    assert mine["batches"][0]["losses"]["loss"] > 0 and mine["batches"][1]["losses"]["loss"] == "nan"
    assert [part["seed"] for part in mine["batches"]] == [derive_seed(11, 4, micro, 0) for micro in (0, 1)]
    assert "model.head.weight" in mine["parameters_with_nonfinite_gradient"]


class Explosive(TinyMethod):
    """A healthy loss whose gradient is infinite in one bias, from step 3 on."""

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        losses = super().forward(batch, progress)
        if progress.step >= 3:
            zero = self.model.embed.bias[0] - self.model.embed.bias[0].detach()
            losses["loss"] = losses["loss"] + zero.abs().sqrt()
        return losses


def test_inf_in_one_gradient_is_named(tmp_path: Path) -> None:
    with pytest.raises(VitrailError, match=r"step 3 .*not finite: gradients of model\.embed\.bias\."):
        train(tmp_path, tiny_config(clip_norm=None), Explosive())
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert report["ranks"][0]["parameters_with_nonfinite_gradient"] == ["model.embed.bias"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_says_what_to_change(tmp_path: Path, error: Exception) -> None:
    class Hungry(TinyMethod):
        def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
            raise error

    with pytest.raises(VitrailError, match=r"out of memory on cpu.*batch size \(now 4\).*accumulate \(now 2\).*bf16"):
        train(tmp_path, tiny_config(accumulate=2), Hungry())


def test_other_errors_of_the_method_pass_through(tmp_path: Path) -> None:
    class Broken(TinyMethod):
        def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        train(tmp_path, method=Broken())


# ── bad loaders and bad losses ───────────────────────────────────────────────────────────────────────────────────


def test_loader_without_batches(tmp_path: Path) -> None:
    with pytest.raises(VitrailError, match="no batches"):
        train(tmp_path, loader=TinyLoader(batches=0))
    assert not list(tmp_path.iterdir())


class Short(TinyLoader):
    def __len__(self) -> int:
        return self.batches + 2


def test_loader_that_ends_early_or_yields_nothing(tmp_path: Path) -> None:
    with pytest.raises(VitrailError, match=r"promised 8 batches .* ended after 6 of epoch 0"):
        train(tmp_path, loader=Short())
    with pytest.raises(VitrailError, match=r"batch 5 of epoch 0 is empty"):
        train(tmp_path, loader=TinyLoader(last=0))


def test_loader_that_fails_after_a_stop_does_not_hide_the_stop(tmp_path: Path) -> None:
    def stop_then_fail(batch: Batch) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("worker 0 was interrupted")

    with pytest.raises(Interrupted):
        train(tmp_path, loader=At(0, 3, stop_then_fail))
    loader = TinyLoader()
    train(tmp_path, loader=loader)
    assert loader.starts[0] == (0, 3)


def test_loader_is_closed_when_training_stops(tmp_path: Path) -> None:
    closed: list[int] = []

    class Closing(TinyLoader):
        def epoch(self, epoch: int, start: int = 0):  # type: ignore[no-untyped-def]  # as in the parent
            try:
                yield from super().epoch(epoch, start)
            finally:
                closed.append(epoch)

    class Failing(TinyMethod):
        def after_step(self, progress: Progress) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tmp_path, method=Failing(), loader=Closing())
    assert closed == [0]


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (lambda loss: {"total": loss}, r"must be called 'loss'"),
        (lambda loss: {"loss": loss.repeat(2)}, r"'loss' of shape \(2,\)"),
        (lambda loss: {"loss": loss.detach()}, "does not depend on any trainable parameter"),
        (lambda loss: {"loss": loss, "lr": loss}, "calls a loss lr"),
    ],
)
def test_bad_losses_are_refused(tmp_path: Path, losses: Callable[[Tensor], dict[str, Tensor]], message: str) -> None:
    class Bad(TinyMethod):
        def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
            return losses(super().forward(batch, progress)["loss"])

    with pytest.raises(VitrailError, match=message):
        train(tmp_path, method=Bad())


# ── evaluation, average, records ─────────────────────────────────────────────────────────────────────────────────


def test_evaluation_and_result_use_the_average(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        seen.append(weights(model))
        return {}

    method = TinyMethod()
    result = train(tmp_path, tiny_config(ema_decay=0.9), method, evaluate=evaluate)
    assert len(seen) == 3
    assert_equal(seen[-1], weights(result.model))
    assert not result.model.training and method.training
    assert not torch.equal(result.model.head.weight, method.model.head.weight)  # type: ignore[union-attr]
    # The weights that went on being trained were not disturbed.
    plain = TinyMethod()
    train(tmp_path / "plain", tiny_config(), plain)
    assert_equal(weights(plain), weights(method))


def test_frozen_parts_keep_their_mode_through_an_evaluation(tmp_path: Path) -> None:
    modes: list[bool] = []

    class Frozen(TinyMethod):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.model.norm.eval()
            return self

        def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
            modes.append((self.model.norm.training, self.model.training) == (False, True))
            return super().forward(batch, progress)

    train(tmp_path, tiny_config(), Frozen(0.1), evaluate=lambda model: {})
    assert modes == [True] * 18


def test_eval_every_includes_the_last_epoch(tmp_path: Path) -> None:
    train(tmp_path, tiny_config(epochs=5, eval_every=2, log_every=100), evaluate=lambda model: {"n": 1.0})
    assert [row["val_n"] for row in rows(tmp_path)] == ["", "1", "", "1", "1"]


def test_table_holds_the_run(tmp_path: Path) -> None:
    train(tmp_path, tiny_config(epochs=2), evaluate=lambda model: {"top1": 0.5})
    table = rows(tmp_path)
    assert [(row["epoch"], row["step"], row["val_top1"]) for row in table] == [
        ("1", "4", ""),
        ("1", "6", "0.5"),
        ("2", "8", ""),
        ("2", "12", "0.5"),
    ]
    for row in table:
        factor = schedule_factor(int(row["step"]) - 1, 12, 2, 1e-4 / 0.05, 1e-3 / 0.05)
        assert float(row["lr"]) == pytest.approx(0.05 * factor)
        assert float(row["images_per_s"]) > 0 and float(row["grad_norm"]) > 0
    # Means over the rows' own steps, not the last value: the first row covers steps 0 to 3.
    losses: list[float] = []

    class Watching(TinyMethod):
        def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
            found = super().forward(batch, progress)
            losses.append(found["loss"].item())
            return found

    train(tmp_path / "again", tiny_config(epochs=2), Watching())
    assert float(table[0]["loss"]) == pytest.approx(sum(losses[:4]) / 4)
    assert float(table[1]["loss"]) == pytest.approx(sum(losses[4:6]) / 2)


def test_leftover_rows_of_a_run_without_a_checkpoint_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,lr\n1,4,0.1\n1,5")
    train(tmp_path, tiny_config(epochs=1))
    assert [row["step"] for row in rows(tmp_path)] == ["4", "6"]
    assert "loss" in rows(tmp_path)[0]
    assert (tmp_path / "metrics.previous.csv").read_text() == "epoch,step,lr\n1,4,0.1\n1,5"


def test_plain_lines_when_there_is_no_terminal(tmp_path: Path) -> None:
    console = quiet()
    train(tmp_path, evaluate=lambda model: {"top1": 0.25}, console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "training on cpu, fp32: as asked" in text
    assert "step 18/18" in text and "images/s" in text and "left" in text
    assert "epoch 3/3: top1 0.25" in text
    assert "\x1b" not in text


def test_bar_on_a_terminal(tmp_path: Path) -> None:
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), force_terminal=True, width=160)
    train(tmp_path, console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "18/18" in text and "images/s" in text and "epoch 3" in text


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, tensorboard=True, evaluate=lambda model: {"top1": 0.25})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [int(row["step"]) for row in rows(tmp_path)]
    assert [event.value for event in events.Scalars("val_top1")] == [0.25] * 3


def test_tensorboard_missing_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(VitrailError, match=r"pip install \"vitrail\[track\]\""):
        train(tmp_path, tensorboard=True)
    loader: Any = TinyLoader()
    assert train(tmp_path, loader=loader).steps == 18
