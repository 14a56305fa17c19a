"""The kernels in ``native.cpp``, which are built once on every machine that can use them.

Attention: beside torch's operators, scores never reach memory, they are not rounded, and nothing is copied between the
layers and the kernel. LayerNorm: its result is written in bf16 at once. Sums of float32 and bf16: without a cast
before. Optional: where they cannot be had, :func:`vitrail.nn.attention.attend` and torch's own operators do the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.machine import best_of, remembered, user_cache
from vitrail.nn.attention import Mask, Way, attend, attention_kernel
from vitrail.speed.packed import rounds_to_bf16

SOURCE = Path(__file__).with_name("native.cpp")
COMPILER = "g++"
"""Its threads are those of torch: both come from libgomp."""
FLAGS = (
    *("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp"),
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mfma"),
)
TIMED_HEADS = (4, 12, 197, 64)
"""The queries by which attention is timed: a ViT-B's, of four pictures."""
LANES = 16
"""Numbers of a head come in multiples of it."""
PATIENCE_S = 120.0
"""For the compiler, which needs two seconds on a free machine."""


class _Heads(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("batch", ctypes.c_int64), ("head", ctypes.c_int64), ("row", ctypes.c_int64))


class _Bias(ctypes.Structure):
    _fields_ = (*_Heads._fields_, ("key", ctypes.c_int64), ("count", ctypes.c_int64))


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("batch", "heads", "queries", "keys", "dim"))


class Unavailable(Exception):
    """The kernels cannot be had here; the message says why."""


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


class NativeAttention:
    """Attention by the kernel.

    Args:
        library: the built kernels.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._attend = library.attend
        self._attend.argtypes = (*[ctypes.c_void_p] * 6, ctypes.c_float, ctypes.c_int)

    def __call__(
        self,
        query: Float[Tensor, "b heads q d"],
        key: Float[Tensor, "b heads k d"],
        value: Float[Tensor, "b heads k d"],
        mask: Mask | None,
    ) -> Float[Tensor, "b heads q d"]:
        """Weighted mean of the values, in bf16; by the usual ways what the kernel cannot do.

        That is: another precision than bf16 or autocast to it, a gradient, a mask of booleans, and heads whose width is
        no multiple of 16.
        """
        if not self._takes(query, key, value, mask):
            with attention_kernel("auto"):
                return attend(query, key, value, mask)
        batch, heads, queries, dim = query.shape
        # Head by head inside a row, as the layer behind reads it.
        result = query.new_empty(batch, queries, heads, dim, dtype=torch.bfloat16).transpose(1, 2)
        read = [_rows(heads.to(torch.bfloat16)) for heads in (query, key, value)]
        bias = None if mask is None else mask.float().expand(-1, heads, queries, key.shape[-2])
        if bias is not None and bias.stride(3) not in (0, 1):
            bias = bias.contiguous()
        sizes = _Sizes(batch, heads, queries, key.shape[-2], dim)
        failed = self._attend(
            *(ctypes.byref(_Heads(one.data_ptr(), *one.stride()[:3])) for one in (*read, result)),
            ctypes.byref(_Bias() if bias is None else _Bias(bias.data_ptr(), *bias.stride(), bias.shape[0])),
            ctypes.byref(sizes),
            dim**-0.5,
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError(f"attention over {key.shape[-2]:,} tokens")
        return result

    @staticmethod
    def _takes(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
        learns = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
        return (
            (query.dtype == torch.bfloat16 or rounds_to_bf16())
            and not learns
            and query.device.type == "cpu"
            and query.shape[-1] % LANES == 0
            and query.shape[-1] == value.shape[-1]
            and min(query.numel(), key.numel()) > 0
            and (mask is None or (mask.dtype != torch.bool and query.shape[0] % mask.shape[0] == 0))
        )


def _rows(heads: Tensor) -> Tensor:
    """The same where the numbers of a head lie side by side."""
    return heads if heads.stride(-1) == 1 else heads.contiguous()


class NativeNorm:
    """LayerNorm by the kernels.

    Args:
        library: the built kernels.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._norms = {torch.float32: library.norm, torch.bfloat16: library.norm_bf16}
        for norm in self._norms.values():
            norm.argtypes = (*[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 2, ctypes.c_float, ctypes.c_int)
            norm.restype = None

    def __call__(
        self, x: Float[Tensor, "*n d"], weight: Float[Tensor, " d"], bias: Float[Tensor, " d"], eps: float
    ) -> Float[Tensor, "*n d"]:
        """Over the last dimension, of float32 or bf16 on the CPU without gradient; in bf16."""
        x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
        result = torch.empty_like(x, dtype=torch.bfloat16)
        width = x.shape[-1]
        told = (part.data_ptr() for part in (x, weight, bias, result))
        self._norms[x.dtype](*told, x.numel() // max(1, width), width, eps, torch.get_num_threads())
        return result


class NativeSum:
    """The sum of float32 and bf16 by the kernel; of anything else, by torch.

    Args:
        library: the built kernels.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._add = library.add
        self._add.argtypes = (*[ctypes.c_void_p] * 3, ctypes.c_int64, ctypes.c_int)
        self._add.restype = None

    def __call__(self, left: Float[Tensor, "*n"], right: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """``left + right``, bit for bit."""
        if not self._takes(left, right):
            return left + right
        result = torch.empty_like(left)
        told = (part.data_ptr() for part in (left, right, result))
        self._add(*told, left.numel(), torch.get_num_threads())
        return result

    @staticmethod
    def _takes(left: Tensor, right: Tensor) -> bool:
        return (
            (left.dtype, right.dtype) == (torch.float32, torch.bfloat16)
            and left.shape == right.shape
            and left.device.type == "cpu"
            and left.is_contiguous()
            and right.is_contiguous()
            and not (torch.is_grad_enabled() and (left.requires_grad or right.requires_grad))
        )


@cache
def native() -> Native:
    """The kernels, built where this machine does not have them yet.

    Raises:
        Unavailable: another processor or system, no compiler, or it fails.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable("they are written for Linux on x86-64")
    try:
        library = ctypes.CDLL(str(_built()))
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


@torch.inference_mode()
def _attention_times(kernel: Way) -> list[float]:
    query = torch.randn(*TIMED_HEADS, dtype=torch.bfloat16)
    return [best_of(lambda: attend(query, query, query)), best_of(lambda: kernel(query, query, query, None))]


def _built() -> Path:
    """The library in the user's cache: named after what it is made of, written whole or not at all."""
    code = SOURCE.read_bytes()
    digest = hashlib.sha256(code + " ".join(FLAGS).encode()).hexdigest()[:16]
    file = user_cache() / "kernels" / f"native-{digest}.so"
    if file.exists():
        return file
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise Unavailable(f"there is no {COMPILER}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".building-") as folder:
            made = Path(folder) / file.name
            subprocess.run(
                [compiler, *FLAGS, "-o", str(made), str(SOURCE)], check=True, capture_output=True, timeout=PATIENCE_S
            )
            made.replace(file)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{COMPILER} did not build them ({error})") from error
    return file
