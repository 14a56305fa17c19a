"""LayerNorm and sums by the kernels that native.py builds; torch's own operators are the twins."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def of_this_machine(name: str) -> Any:
    """A kernel by its name in :class:`vitrail.speed.native.Native`.

    Raises:
        Unavailable: the kernels cannot be had here.
    """
    # Here, since native.py is made of what stands in this file.
    from vitrail.speed.native import native

    return getattr(native(), name)


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

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        """Copies refer to the kernels of the machine that they are on."""
        return of_this_machine, ("norm",)

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

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        """Copies refer to the kernels of the machine that they are on."""
        return of_this_machine, ("add",)

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
