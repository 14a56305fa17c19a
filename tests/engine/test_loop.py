"""One process: what a step computes, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.engine import Interrupted, run, schedule_factor
from vitrail.engine.randomness import derive_seed

from .tiny import (
    At,
    TinyLoader,
    TinyMethod,
    accuracy,
    assert_close,
    assert_equal,
    rows,
    tiny_config,
    train,
    weights,
)


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


def poison(batch: Batch) -> None:
    batch.images[2, 0, 0, 0] = float("nan")


def test_nan_in_the_loss_stops_before_the_step(tmp_path: Path) -> None:
    method = TinyMethod()
    config = tiny_config(checkpoint_every_steps=1, accumulate=2, ema_decay=0.9, seed=11)
    with pytest.raises(VitrailError, match=r"step 4 \(epoch 1\).*holds the run as it was before it.*nonfinite\.json"):
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


def test_the_step_that_was_refused_is_what_the_next_run_begins_with(tmp_path: Path) -> None:
    # By time no checkpoint is due. Batch norm's averages are poisoned by the forward pass that finds out.
    config = tiny_config(accumulate=2, ema_decay=0.9, seed=11)
    told = []
    for life in range(2):
        loader = At(1, 3, poison)
        with pytest.raises(VitrailError, match=r"step 4 \(epoch 1\).*holds the run as it was before it") as caught:
            train(tmp_path / "out", config, TinyMethod(0.2, seed=life), loader)
        told.append((str(caught.value), (tmp_path / "out" / "nonfinite.json").read_text()))
        assert loader.starts[0] == ((1, 2) if life else (0, 0))
    assert told[0] == told[1]
    report = json.loads(told[0][1])
    assert report["checkpoint_step"] == 4 and "it begins with this step" in report["reproduce"]
    # Only the place of the first stop is kept: a second checkpoint of it would push out the one before.
    assert not (tmp_path / "out" / "checkpoint.previous.safetensors").exists()
    # By the recipe, by hand: the same loss to the bit.
    stored = load_file(tmp_path / "out" / "checkpoint.safetensors")
    method = TinyMethod(0.2, seed=5)
    method.load_state_dict({name.removeprefix("method/"): value for name, value in stored.items() if "method/" in name})
    healthy = report["ranks"][0]["batches"][0]
    torch.manual_seed(healthy["seed"])
    loss = method(TinyLoader().batch(1, 2), Progress(4, 9, 1, 3))["loss"].detach()
    assert float(loss) == healthy["losses"]["loss"]
    # And where it was no more than a mishap, the run ends as if it had not been.
    method, reference = TinyMethod(0.2, seed=6), TinyMethod(0.2)
    train(tmp_path / "out", config, method)
    train(tmp_path / "reference", config, reference)
    assert_equal(weights(method), weights(reference))


def test_a_first_step_that_is_refused_is_kept_too(tmp_path: Path) -> None:
    for seed in (0, 1):
        with pytest.raises(VitrailError, match=r"step 0 \(epoch 0\).*holds the run as it was before it"):
            train(tmp_path, method=TinyMethod(seed=seed), loader=At(0, 0, poison))
    method, reference = TinyMethod(seed=2), TinyMethod()
    train(tmp_path, method=method)
    train(tmp_path / "reference", method=reference)
    assert_equal(weights(method), weights(reference))


class Ruined(TinyMethod):
    """One of its weights becomes infinite after step 3: the checkpoint before is the last good one."""

    def after_step(self, progress: Progress) -> None:
        if progress.step == 3:
            with torch.no_grad():
                self.model.head.bias[0] = float("inf")


@pytest.mark.parametrize(
    ("every", "there", "recipe"),
    [
        (3, "the last one goes on with step 3", "goes on from .* with step 3, up to 4"),
        (None, "there is none yet", "no checkpoint"),
    ],
)
def test_ruined_weights_push_no_checkpoint_out(tmp_path: Path, every: int | None, there: str, recipe: str) -> None:
    config = tiny_config(checkpoint_every_steps=every)
    with pytest.raises(VitrailError, match=rf"step 4 .*not finite already .*model\.head\.bias\); {there}"):
        train(tmp_path, config, Ruined())
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert re.search(recipe, report["reproduce"]) and report["checkpoint_step"] == every
    assert (tmp_path / "checkpoint.safetensors").exists() == (every is not None)


def test_a_full_disk_does_not_hide_the_step_that_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise VitrailError("No space left on device")

    monkeypatch.setattr(run, "save_checkpoint", full)
    with pytest.raises(
        VitrailError, match=r"step 4 .*no checkpoint of that moment \(No space left .*\); there is none"
    ):
        train(tmp_path, loader=At(0, 4, poison))
    assert "starts from the beginning" in json.loads((tmp_path / "nonfinite.json").read_text())["reproduce"]


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

    def refused(name: str, **changes: Any) -> str:
        with pytest.raises(VitrailError, match="out of memory on cpu with") as caught:
            train(tmp_path / name, tiny_config(accumulate=2), Hungry(), **changes)
        return str(caught.value)

    # Who gave a loader is told what the loader gives; who gave the batch of a whole step is told of that one.
    own = refused("loader")
    assert "with 4 pictures of (3, 2, 2) at once (a batch of the loader, of which accumulate=2 make a step)" in own
    assert "Try: batches of 2 from the loader with accumulate=4 (2 pictures at once" in own and "bf16" in own
    whole = refused("whole", fingerprint={"global_batch": "8"})
    assert "with 4 pictures of (3, 2, 2) at once (batch_size 8 / accumulate 2)" in whole
    assert "Try: accumulate=4 with batch_size=8 as it is (2 pictures at once" in whole
    # What is broken may be missing from a batch: the numbers are those that were asked for.
    assert "accumulate=4 with batch_size=8" in refused(
        "broken", fingerprint={"global_batch": "8"}, loader=TinyLoader(size=3)
    )
    odd = refused("odd", fingerprint={"global_batch": "18"})
    assert "accumulate=6 with batch_size=18 as it is (3 pictures at once" in odd
    single = refused("single", fingerprint={"global_batch": "2"})
    assert "accumulate=" not in single.partition("Try: ")[2] and "smaller pictures" in single


def test_other_errors_of_the_method_pass_through(tmp_path: Path) -> None:
    class Broken(TinyMethod):
        def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        train(tmp_path, method=Broken())


def test_loader_without_batches(tmp_path: Path) -> None:
    with pytest.raises(VitrailError, match="no batches"):
        train(tmp_path, loader=TinyLoader(batches=0))
    assert not list(tmp_path.iterdir())


class Short(TinyLoader):
    def __len__(self) -> int:
        return self.batches + 2


def test_loader_that_ends_early_or_yields_nothing(tmp_path: Path) -> None:
    with pytest.raises(VitrailError, match=r"promised 8 batches .* ended after 6 of epoch 0"):
        train(tmp_path / "short", loader=Short())
    with pytest.raises(VitrailError, match=r"batch 5 of epoch 0 is empty"):
        train(tmp_path / "empty", loader=TinyLoader(last=0))


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
