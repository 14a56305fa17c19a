"""What all verbs that train share: which attention they learn with, how a batch is divided."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.jobs.tiny import tiny_config
from vitrail.building import Unavailable
from vitrail.contracts import VitrailError
from vitrail.engine import USUAL, Interrupted
from vitrail.engine.resume import Plan
from vitrail.engine.run import Run
from vitrail.jobs import training
from vitrail.jobs.train import train
from vitrail.jobs.train_config import TrainConfig
from vitrail.jobs.training import NATIVE, LearningAttention
from vitrail.nn.attention import attend, attention_kernel

CPU = torch.device("cpu")


def unmistakable(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """No weights at all: the mean of the values."""
    return value.mean(dim=-2, keepdim=True).expand_as(query)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the clock says of a kernel that is there: quicker or not."""
    monkeypatch.setattr(training, "native", lambda: SimpleNamespace(attention=unmistakable))

    def says(quicker: bool) -> None:
        answer = (unmistakable, "a line") if quicker else (None, "")
        monkeypatch.setattr(training, "attention_to_learn_with", lambda device: answer)

    return says


@pytest.mark.parametrize(
    ("precision", "compile", "quicker", "chosen"),
    [
        ("bf16", False, True, (NATIVE, "a line")),
        ("bf16", False, False, (USUAL, "")),
        ("fp32", False, True, (USUAL, "")),
        ("bf16", True, True, (USUAL, "")),
    ],
)
def test_a_kernel_is_chosen_in_bf16_and_not_compiled(
    precision: str, compile: bool, quicker: bool, chosen: tuple[str, str], clock: Any
) -> None:
    clock(quicker)
    assert TrainConfig(data="digits", compile=compile).ways().choose(CPU, precision) == chosen


def test_the_kernel_computes_inside_the_block_alone(clock: Any) -> None:
    clock(True)
    ways, heads = LearningAttention(compile=False), torch.randn(1, 1, 4, 8)
    assert ways.lacking(NATIVE, CPU) is None
    with ways.use(NATIVE):
        assert attend(heads, heads, heads).std(dim=-2).eq(0).all()
    assert attend(heads, heads, heads).std(dim=-2).gt(0).all()


def test_why_the_kernel_cannot_be_had(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(True)
    assert LearningAttention(compile=True).lacking(NATIVE, CPU) == "the model is compiled"
    ways = LearningAttention(compile=False)
    assert "not for cuda" in str(ways.lacking(NATIVE, torch.device("cuda")))
    assert "does not know it" in str(ways.lacking("attention by magic", CPU))

    def none() -> None:
        raise Unavailable("there is no compiler")

    monkeypatch.setattr(training, "native", none)
    assert ways.lacking(NATIVE, CPU) == "there is no compiler"


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    after = Run._after_step

    def stopping(self: Run, *arguments: Any) -> None:
        if self._step == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        after(self, *arguments)

    monkeypatch.setattr(Run, "_after_step", stopping)


@pytest.mark.parametrize("quicker", [True, False])
def test_a_run_goes_on_with_its_attention_though_the_clock_answers_otherwise(
    photos: Path, tmp_path: Path, quicker: bool, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(name: str) -> TrainConfig:
        return tiny_config(photos, tmp_path / name, precision="bf16", report=False, epochs=2)

    clock(quicker)
    train(config("whole"))
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(2, patch)
        train(config("out"))
    clock(not quicker)
    train(config("out"))
    whole, found = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(whole[name], found[name]) for name in whole)
    # The two ways do differ.
    train(config("other"))
    other = load_file(tmp_path / "other" / "checkpoint.safetensors")
    assert not torch.equal(whole["method/model.head.weight"], other["method/model.head.weight"])


def test_steps_are_as_many_however_a_batch_is_divided(photos: Path, tmp_path: Path) -> None:
    from vitrail.data import Loader, Preprocess, TrainTransform, open_data

    source = open_data(str(photos)).train
    assert len(source) == 27  # one batch of 16, and 11 that are left out

    def steps(world: int, accumulate: int) -> int:
        config = tiny_config(photos, tmp_path, batch_size=16, accumulate=accumulate)
        loader = Loader(
            source,
            TrainTransform(Preprocess(size=(16, 16)), None),
            batch_size=config.micro_batch(world),
            world_size=world,
            accumulate=accumulate,
        )
        return Plan.of(loader, config.engine()).steps_per_epoch

    assert {steps(*division) for division in ((1, 1), (1, 2), (1, 8), (2, 4), (8, 1))} == {1}


def test_a_run_may_go_on_with_its_batch_in_more_parts(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"batch_size": 8, "report": False, "epochs": 2, "drop_path": 0.0}
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(2, patch)
        train(tiny_config(photos, tmp_path / "out", **options))
    train(tiny_config(photos, tmp_path / "out", **options, accumulate=4))
    assert "warning: a batch is divided by 1 processes x accumulate 4" in capsys.readouterr().err
    # Nothing is drawn for a part here, so that all that differs is rounding.
    train(tiny_config(photos, tmp_path / "whole", **options))
    whole, found = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "out"))
    for name in whole:
        torch.testing.assert_close(found[name], whole[name], atol=1e-3, rtol=1e-3, msg=lambda text, n=name: n + text)


def test_memory_that_runs_out_is_explained_with_the_users_numbers(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*arguments: object) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    config = tiny_config(photos, tmp_path / "out", batch_size=8, accumulate=2, epochs=1)
    with (
        attention_kernel(hungry),
        pytest.raises(VitrailError, match=r"\(batch_size 8 / accumulate 2\).* accumulate=4 with batch_size=8 as it is"),
    ):
        train(config)
