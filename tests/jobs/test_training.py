"""What all verbs that train share: which attention they learn with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vitrail.engine import World
from vitrail.jobs import training
from vitrail.jobs.train_config import TrainConfig
from vitrail.nn.attention import attend


def asked(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, way: Any) -> bool:
    """Whether attention inside the block is computed by ``way``."""
    monkeypatch.setattr(training, "attention_to_learn_with", lambda device: (way, "a line"))
    heads = torch.randn(1, 1, 4, 8)
    with config.quick_attention(World()):
        return attend(heads, heads, heads).isnan().all().item() is True


def unmistakable(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    return torch.full_like(query, float("nan"))


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({"precision": "bf16"}, True),
        ({"precision": "fp32"}, False),
        ({"precision": "bf16", "compile": True}, False),
    ],
    ids=str,
)
def test_a_kernel_is_used_in_bf16_and_not_compiled(
    options: dict[str, Any], used: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(TrainConfig(data="digits", device="cpu", **options), monkeypatch, unmistakable) == used
    assert capsys.readouterr().err == ("a line\n" if used else "")
    heads = torch.randn(1, 1, 4, 8)
    assert attend(heads, heads, heads).isfinite().all(), "afterwards attention is as ever"


def test_without_a_kernel_nothing_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert not asked(TrainConfig(data="digits", device="cpu", precision="bf16"), monkeypatch, None)
    assert capsys.readouterr().err == ""
