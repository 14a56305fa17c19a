"""The kernel that is built on the machine: attention to bf16's rounding; what it cannot do is done by torch."""

from __future__ import annotations

import math
import stat
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.models import build, config_of
from vitrail.nn.attention import attend, attention_kernel
from vitrail.speed.native import Native, NativeAttention, Unavailable, native
from vitrail.speed.prepare import prepare

module = import_module(native.__module__)
CPU = torch.device("cpu")


def why_not() -> str:
    try:
        native()
    except Unavailable as reason:
        return str(reason)
    return ""


runs = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it runs")


def joint(batch: int, heads: int, tokens: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as a joint projection leaves them: none lies in one piece."""
    torch.manual_seed(batch + heads + tokens + dim)
    made = (1.5 * torch.randn(batch, tokens, 3, heads, dim)).bfloat16()
    query, key, value = made.permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def exact(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    scores = query.double() @ key.double().transpose(-2, -1) / math.sqrt(query.shape[-1])
    return (scores + (0 if bias is None else bias.double())).softmax(-1) @ value.double()


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@runs
@pytest.mark.parametrize("tokens", [1, 2, 5, 6, 7, 15, 16, 17, 31, 49, 64, 65, 113, 128, 197])
@pytest.mark.parametrize("dim", [16, 32, 48, 64, 80, 128])
def test_every_length_and_width(tokens: int, dim: int) -> None:
    query, key, value = joint(2, 3, tokens, dim)
    found = native().attention(query, key, value, None)
    assert found.dtype == torch.bfloat16 and found.shape == query.shape
    # Weights and result are rounded to 8 bits; scores are not.
    assert off(found, exact(query, key, value)) < 0.004
    assert found.transpose(1, 2).is_contiguous()


@runs
@pytest.mark.parametrize(("queries", "keys"), [(1, 300), (7, 64), (300, 1), (64, 33), (200, 1500)])
def test_as_many_queries_as_you_like(queries: int, keys: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(1, 2, queries, 64).bfloat16()
    key, value = torch.randn(2, 1, 2, keys, 64).bfloat16().unbind(0)
    assert off(native().attention(query, key, value, None), exact(query, key, value)) < 0.004


@runs
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 50), (2, 1, 1, 50), (1, 3, 50, 50), (2, 3, 50, 50), (1, 1, 50, 1)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_biases_reach_their_scores(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    query, key, value = joint(2, 3, 50, 32)
    bias = (2 * torch.randn(shape)).to(dtype)
    assert off(native().attention(query, key, value, bias), exact(query, key, value, bias)) < 0.004


@runs
def test_a_bias_may_lie_in_memory_as_it_likes() -> None:
    query, key, value = joint(2, 3, 20, 32)
    bias = torch.randn(1, 3, 20, 20).transpose(-2, -1)
    assert off(native().attention(query, key, value, bias), exact(query, key, value, bias)) < 0.004


@runs
def test_biases_of_some_repeat_for_the_others() -> None:
    query, key, value = joint(6, 3, 20, 32)
    bias = torch.randn(3, 3, 20, 20)
    found = native().attention(query, key, value, bias)
    assert off(found, exact(query, key, value, bias.repeat(2, 1, 1, 1))) < 0.004


@runs
def test_what_is_shut_out_counts_for_nothing() -> None:
    query, key, value = joint(1, 2, 40, 32)
    bias = torch.zeros(1, 1, 1, 40)
    bias[..., 23:] = float("-inf")
    found = native().attention(query, key, value, bias)
    assert off(found, exact(query, key[:, :, :23], value[:, :, :23])) < 0.004
    assert native().attention(query, key, value, torch.full_like(bias, float("-inf"))).isnan().all()


@runs
def test_numbers_gone_wrong_are_not_hidden() -> None:
    query, key, value = joint(1, 2, 20, 32)
    key[0, 1, 3, 0] = float("nan")
    found = native().attention(query, key, value, None)
    assert found[0, 1].isnan().all() and not found[0, 0].isnan().any()


@runs
def test_large_scores_do_not_overflow() -> None:
    query, key, value = joint(1, 2, 70, 64)
    assert off(native().attention(100 * query, key, value, None), exact(100 * query, key, value)) < 0.004


@runs
def test_threads_change_no_bit() -> None:
    query, key, value = joint(1, 1, 500, 64)
    before, answers = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            answers.append(native().attention(query, key, value, None))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


@runs
def test_autocast_rounds_what_comes_in_float32() -> None:
    query, key, value = (part.float() for part in joint(1, 2, 30, 32))
    with torch.autocast("cpu", torch.bfloat16):
        found = native().attention(query, key, value, None)
    assert found.dtype == torch.bfloat16 and off(found, exact(query, key, value)) < 0.004


@runs
@pytest.mark.parametrize("why", ["float32", "booleans", "narrow", "gradient", "nothing"])
def test_the_rest_is_done_by_torch(why: str) -> None:
    query, key, value = joint(1, 2, 0 if why == "nothing" else 30, 24 if why == "narrow" else 32)
    mask = torch.ones(30, 30).tril().bool()[None, None] if why == "booleans" else None
    if why == "float32":
        query, key, value = query.float(), key.float(), value.float()
    if why == "gradient":
        query.requires_grad_()
    with attention_kernel(native().attention):
        found = attend(query, key, value, mask)
    assert torch.equal(found, attend(query, key, value, mask)) and found.requires_grad == (why == "gradient")


@runs
def test_dropout_is_not_forgotten() -> None:
    query, key, value = joint(1, 2, 30, 32)
    with attention_kernel(native().attention):
        assert torch.equal(attend(query, key, value, dropout=1.0), torch.zeros_like(query))


@runs
@pytest.mark.parametrize("width", [1, 15, 16, 17, 96, 384, 1000])
@pytest.mark.parametrize("rows", [(1,), (2, 7), (3, 1, 5), (0, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_norms_of_every_width(rows: tuple[int, ...], width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(width)
    x, weight, bias = (30 + 3 * torch.randn(*rows, width)).to(dtype), torch.randn(width), torch.randn(width)
    found = native().norm(x, weight, bias, 1e-6)
    wanted = F.layer_norm(x.double(), (width,), weight.double(), bias.double(), 1e-6)
    assert found.dtype == torch.bfloat16 and found.shape == x.shape
    # Within half a step of bf16, or of float32's own error where the mean is far from the spread.
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=2e-4)


@runs
def test_a_norm_may_read_what_lies_in_strides_and_shows_a_nan() -> None:
    x = torch.randn(4, 6, 32).transpose(0, 1)
    x[2, 1, 5] = float("nan")
    found = native().norm(x, torch.ones(32), torch.zeros(32), 1e-5)
    assert found.isnan().all(-1).nonzero().tolist() == [[2, 1]]
    keep = ~found.isnan()
    wanted = F.layer_norm(x, (32,), eps=1e-5)
    torch.testing.assert_close(found[keep].float(), wanted[keep], rtol=2**-8, atol=1e-4)


@runs
@pytest.mark.parametrize("shape", [(1,), (15,), (16,), (3, 5, 7), (0,), (2, 197, 768)], ids=str)
def test_sums_are_torchs_bit_for_bit(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(shape), torch.randn(shape).bfloat16()
    found = native().add(left, right)
    assert found.dtype == torch.float32 and torch.equal(found, left + right)


@runs
def test_other_sums_are_done_by_torch() -> None:
    left, right = torch.randn(4, 6), torch.randn(6, 4).bfloat16()
    assert torch.equal(native().add(left, right.T), left + right.T)
    assert torch.equal(native().add(left, right.T[:1]), left + right.T[:1])
    assert native().add(left.requires_grad_(), right.T.contiguous()).requires_grad


class TestBuilding:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(module, "user_cache", lambda: tmp_path)
        return tmp_path

    @runs
    def test_once_on_a_machine(self, cache: Path) -> None:
        assert isinstance(native.__wrapped__().attention, NativeAttention)
        (file,) = (cache / "kernels").iterdir()
        made = file.stat()
        native.__wrapped__()
        assert file.stat().st_mtime_ns == made.st_mtime_ns and list((cache / "kernels").iterdir()) == [file]

    @runs
    def test_without_a_compiler(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(cache))
        with pytest.raises(Unavailable, match=r"there is no g\+\+"):
            native.__wrapped__()

    @runs
    def test_a_compiler_that_fails_leaves_nothing(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        compiler = cache / "g++"
        compiler.write_text("#!/bin/sh\nexit 3\n")
        compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{cache}:/usr/bin:/bin")
        with pytest.raises(Unavailable, match=r"g\+\+ did not build them"):
            native.__wrapped__()
        assert not list((cache / "kernels").iterdir())

    @runs
    def test_a_damaged_library(self) -> None:
        module._built().write_bytes(b"not a library")
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
        assert off(ready(images), wanted.double()) < 0.02 and asked == [(2, 2, 5, 32)] * 2
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
