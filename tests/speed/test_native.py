"""The kernels: built once on a machine, asked where they are quicker, and never missed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.speed.kernels import off, runs
from vitrail.models import build, config_of
from vitrail.speed.native import Native, Unavailable, attention_to_learn_with, native
from vitrail.speed.prepare import prepare

module = import_module(native.__module__)
CPU = torch.device("cpu")


@runs
def test_a_damaged_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "native.so"
    damaged.write_bytes(b"not a library")
    monkeypatch.setattr(module, "built", lambda name, files, flags: damaged)
    with pytest.raises(Unavailable, match="cannot be loaded"):
        native.__wrapped__()


class TestPrepared:
    @pytest.fixture(autouse=True)
    def _clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for timed in (module, import_module("vitrail.speed.prepare")):
            monkeypatch.setattr(timed, "remembered", lambda question, device, measure: [3.0, 1.0])

    @pytest.fixture
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        small = {"img_size": (32, 32), "depth": 2, "embed_dim": 64, "num_heads": 2}
        return build(config_of("vit_tiny_patch16_224", small)).eval()

    @runs
    def test_it_is_used_and_said(self, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[int, ...]] = []
        plain = native()

        def watched(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
            asked.append(tuple(query.shape))
            return plain.attention(query, key, value, mask)

        monkeypatch.setattr(module, "native", lambda: Native(watched, plain.norm, plain.add))
        ready = prepare(model, CPU, "bf16", 2)
        assert ready.form == "bf16 packed with native kernels"
        assert "a native kernel for attention (3.00 times as quick)" in ready.choice
        images = torch.randn(2, 3, 32, 32)
        with torch.inference_mode():
            wanted = model(images)
        assert off(ready(images), wanted.double()) < 0.02 and asked == [(2, 2, 5, 32), (2, 2, 1, 32)]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            model(images)
        assert len(asked) == 2, "the plain model is asked as ever"

    @runs
    def test_a_stream_in_bf16_is_normed_by_it_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        small = {"img_size": (64, 64), "depths": [1, 1, 2, 1], "embed_dim": 32, "num_heads": [1, 2, 4, 8]}
        model = build(config_of("swin_tiny_patch4_window7_224", small)).eval()
        seen: list[torch.dtype] = []
        plain = native()

        def watched(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
            seen.append(x.dtype)
            return plain.norm(x, weight, bias, eps)

        monkeypatch.setattr(module, "native", lambda: Native(plain.attention, watched, plain.add))
        images = torch.randn(2, 3, 64, 64)
        found = prepare(model, CPU, "bf16", 2)(images)
        with torch.inference_mode():
            assert off(found, model(images).double()) < 0.02
        # Of the patches, two of every block, three before pictures are halved, and the last.
        assert seen == [torch.bfloat16] * (1 + 2 * 5 + 3 + 1)

    def test_without_it_the_line_says_why(self, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse() -> Native:
            raise Unavailable("there is no g++")

        monkeypatch.setattr(module, "native", refuse)
        ready = prepare(model, CPU, "bf16", 2)
        if ready.form != "bf16":
            assert ready.form == "bf16 packed" and "no native kernels, there is no g++" in ready.choice


class TestLearning:
    @runs
    def test_it_is_taken_where_it_is_quicker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "remembered", lambda question, device, measure: [3.0, 1.5])
        way, said = attention_to_learn_with(CPU)
        assert way is native().attention and said == "attention by a native kernel (2.00 times as quick)"

    @runs
    def test_it_is_not_where_it_is_no_quicker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "remembered", lambda question, device, measure: [1.0, 1.0])
        assert attention_to_learn_with(CPU) == (None, "")

    @runs
    def test_both_ways_are_timed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "remembered", lambda question, device, measure: measure())
        with torch.no_grad():
            attention_to_learn_with(CPU)

    def test_another_device_or_no_compiler_is_no_news(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse() -> Native:
            raise Unavailable("there is no g++")

        monkeypatch.setattr(module, "native", refuse)
        assert attention_to_learn_with(CPU) == (None, "")
        assert attention_to_learn_with(torch.device("cuda")) == (None, "")
