"""The kernels in ``kernels/``, which are built once on every machine that can use them.

Attention and its gradient: beside torch's operators, scores never reach memory, they are not rounded, and nothing is
copied between the layers and the kernel. LayerNorm: its result is written in bf16 at once. Sums of float32 and bf16:
without a cast before. Optional: where they cannot be had, :func:`vitrail.nn.attention.attend` and torch's own operators
do the same.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vitrail.building import Unavailable, built
from vitrail.machine import best_of, remembered
from vitrail.nn.attention import Way, attend, attention_kernel
from vitrail.speed.native_attention import NativeAttention
from vitrail.speed.native_rows import NativeNorm, NativeSum

SOURCES = Path(__file__).with_name("kernels")
FLAGS = (
    *("-O3", "-std=c++17", "-fopenmp"),
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mfma"),
)
TIMED_HEADS = (4, 12, 197, 64)
"""The queries by which attention is timed: a ViT-B's, of four pictures."""


@dataclass(frozen=True)
class Native:
    """What was built here; made by :func:`native`.

    Attributes:
        attention: for :func:`vitrail.nn.attention.attention_kernel`.
        norm: LayerNorm of float32 or bf16 into bf16.
        add: the sum of two tensors.
    """

    attention: Way
    norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    add: Callable[[Tensor, Tensor], Tensor]


@cache
def native() -> Native:
    """The kernels, built where this machine does not have them yet.

    Raises:
        Unavailable: another processor or system, no compiler, or it fails.
    """
    if platform.machine() != "x86_64":
        raise Unavailable("they are written for x86-64")
    try:
        library = ctypes.CDLL(str(built("native", sorted(SOURCES.iterdir()), FLAGS)))
    except OSError as error:
        raise Unavailable(f"they cannot be loaded ({error})") from error
    if not library.supported():
        raise Unavailable("the processor has no AVX512-BF16")
    return Native(NativeAttention(library), NativeNorm(library), NativeSum(library))


def native_if_quicker(device: torch.device) -> tuple[Native | None, str]:
    """The kernels where they can be had and attention proves quicker (timed once on each machine); and why or not."""
    try:
        kernels = native()
    except Unavailable as reason:
        return None, f"attention by torch: no native kernels, {reason}"
    usual, its = remembered("attention", device, lambda: _attention_times(kernels.attention))
    if its >= usual:
        return None, "attention by torch, the native kernel is no quicker here"
    return kernels, f"a native kernel for attention ({usual / its:.2f} times as quick)"


def attention_to_learn_with(device: torch.device) -> tuple[Way | None, str]:
    """The kernels for training, as :func:`native_if_quicker`: forward and backward are timed together."""
    if device.type != "cpu":
        return None, ""
    try:
        kernel = native().attention
    except Unavailable:
        return None, ""
    usual, its = remembered("attention forward and backward", device, lambda: _learning_times(kernel))
    return (kernel, f"attention by a native kernel ({usual / its:.2f} times as quick)") if its < usual else (None, "")


@torch.inference_mode()
def _attention_times(kernel: Way) -> list[float]:
    query = torch.randn(*TIMED_HEADS, dtype=torch.bfloat16)
    return best_of(lambda: attend(query, query, query), lambda: kernel(query, query, query, None))


@torch.enable_grad()
def _learning_times(kernel: Way) -> list[float]:
    query, key, value = torch.randn(3, *TIMED_HEADS, dtype=torch.bfloat16, requires_grad=True).unbind(0)

    def step(way: Callable[..., Tensor]) -> None:
        torch.autograd.grad(way(query, key, value, None).sum(), (query, key, value))

    with attention_kernel("auto"):
        return best_of(lambda: step(attend), lambda: step(kernel))
