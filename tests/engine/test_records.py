"""Evaluations with the average, the table, the console, TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.engine import schedule_factor

from .tiny import (
    TinyLoader,
    TinyMethod,
    assert_equal,
    quiet,
    rows,
    tiny_config,
    train,
    weights,
)


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
