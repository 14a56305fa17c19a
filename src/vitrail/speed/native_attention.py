"""Attention by the kernels that native.py builds, forward and backward; the twin is ``attend`` of nn/attention.py."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from vitrail.nn.attention import Mask, attend, attention_kernel
from vitrail.speed.native_rows import of_this_machine
from vitrail.speed.packed import rounds_to_bf16

LANES = 16
"""Numbers of a head come in multiples of it."""


class _Heads(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("batch", ctypes.c_int64), ("head", ctypes.c_int64), ("row", ctypes.c_int64))

    @classmethod
    def of(cls, heads: Tensor) -> _Heads:
        return cls(heads.data_ptr(), *heads.stride()[:3])


class _Bias(ctypes.Structure):
    _fields_ = (*_Heads._fields_, ("key", ctypes.c_int64), ("count", ctypes.c_int64))

    @classmethod
    def of(cls, bias: Tensor | None) -> _Bias:
        return cls() if bias is None else cls(bias.data_ptr(), *bias.stride(), bias.shape[0])


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("batch", "heads", "queries", "keys", "dim"))

    @classmethod
    def of(cls, query: Tensor, key: Tensor) -> _Sizes:
        return cls(*query.shape[:3], key.shape[2], query.shape[3])


class NativeAttention:
    """Attention by the kernels.

    Args:
        library: the built kernels.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._attend = library.attend
        self._attend.argtypes = (*[ctypes.c_void_p] * 6, ctypes.c_float, ctypes.c_void_p, ctypes.c_int)
        self._gradient = library.attend_gradient
        self._gradient.argtypes = (*[ctypes.c_void_p] * 10, ctypes.c_float, ctypes.c_int)

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        """Copies refer to the kernels of the machine that they are on."""
        return of_this_machine, ("attention",)

    def __call__(
        self,
        query: Float[Tensor, "b heads q d"],
        key: Float[Tensor, "b heads k d"],
        value: Float[Tensor, "b heads k d"],
        mask: Mask | None,
    ) -> Float[Tensor, "b heads q d"]:
        """Weighted mean of the values, in bf16; by the usual ways what the kernels cannot do.

        That is: another precision than bf16 or autocast to it, a mask of booleans or one that learns, and heads whose
        width is no multiple of 16.
        """
        if not self._takes(query, key, value, mask):
            with attention_kernel("auto"):
                return attend(query, key, value, mask)
        query, key, value = (_rows(heads.to(torch.bfloat16)) for heads in (query, key, value))
        bias = None if mask is None else mask.float().expand(-1, *query.shape[1:3], key.shape[2])
        if bias is not None and bias.stride(3) not in (0, 1):
            bias = bias.contiguous()
        if torch.is_grad_enabled() and any(heads.requires_grad for heads in (query, key, value)):
            return _Learning.apply(self, query, key, value, bias)
        return self.forward(query, key, value, bias, None)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, levels: Tensor | None) -> Tensor:
        """The result.

        Args:
            query: bf16, the numbers of a head side by side.
            key: likewise.
            value: likewise.
            bias: float32, of the scores' shape but for the number of pictures.
            levels: ``(B, heads, N)`` float32, filled with what :meth:`gradient` wants to know; None for nothing.
        """
        result = _laid_out(query)
        failed = self._attend(
            *(ctypes.byref(_Heads.of(heads)) for heads in (query, key, value, result)),
            ctypes.byref(_Bias.of(bias)),
            ctypes.byref(_Sizes.of(query, key)),
            query.shape[-1] ** -0.5,
            None if levels is None else levels.data_ptr(),
            torch.get_num_threads(),
        )
        _check(failed, key)
        return result

    def gradient(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, levels: Tensor, given: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values from that of the result, all in bf16."""
        given = _rows(given)
        wanted = _laid_out(query), _laid_out(key), _laid_out(value)
        failed = self._gradient(
            *(ctypes.byref(_Heads.of(heads)) for heads in (query, key, value, given, *wanted)),
            ctypes.byref(_Bias.of(bias)),
            ctypes.byref(_Sizes.of(query, key)),
            levels.data_ptr(),
            query.shape[-1] ** -0.5,
            torch.get_num_threads(),
        )
        _check(failed, key)
        return wanted

    @staticmethod
    def _takes(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
        return (
            (query.dtype == torch.bfloat16 or rounds_to_bf16())
            and query.device.type == "cpu"
            and query.shape[-1] % LANES == 0
            and query.shape[-1] == value.shape[-1]
            and min(query.numel(), key.numel()) > 0
            and (mask is None or _is_plain_bias(mask, query.shape[0]))
        )


class _Learning(torch.autograd.Function):
    """The kernels as one step of a graph. Kept for the way back: what came in, and one number for each query."""

    @staticmethod
    def forward(
        ctx: Any, kernels: NativeAttention, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None
    ) -> Tensor:
        levels = query.new_empty(query.shape[:3], dtype=torch.float32)
        ctx.kernels = kernels
        ctx.save_for_backward(query, key, value, bias, levels)
        return kernels.forward(query, key, value, bias, levels)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # The decorator makes ctx position-only.
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        return None, *ctx.kernels.gradient(*ctx.saved_tensors, grad_outputs[0].to(torch.bfloat16)), None


def _is_plain_bias(mask: Tensor, batch: int) -> bool:
    learns = torch.is_grad_enabled() and mask.requires_grad
    return mask.dtype != torch.bool and batch % mask.shape[0] == 0 and not learns


def _laid_out(heads: Tensor) -> Tensor:
    """Memory for as many numbers, head by head inside a row, as the layers around attention have them."""
    batch, count, rows, dim = heads.shape
    return heads.new_empty(batch, rows, count, dim).transpose(1, 2)


def _rows(heads: Tensor) -> Tensor:
    """The same where the numbers of a head lie side by side."""
    return heads if heads.stride(-1) == 1 else heads.contiguous()


def _check(failed: int, key: Tensor) -> None:
    if failed:
        raise MemoryError(f"attention over {key.shape[-2]:,} tokens")
