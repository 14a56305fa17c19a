"""Linear layers whose matrices lie in memory as a CPU's bf16 products read them.

Under autocast torch casts every matrix in every pass, reorders it for its kernel, and copies the bias into the result
first. Here this is done once, and what follows the product (a GELU, a layer scale) is done before the result is rounded
and written. The operators are those that torch's own compiler calls (oneDNN).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.nn.linear import JointLinear, KeylessLinear, third_of

PRODUCT, REORDER = "mkldnn::_linear_pointwise", "mkldnn::_reorder_linear_weight"


def missing_operators() -> str:
    """Why this build of torch cannot run packed layers on its CPU; empty where it can."""
    if not torch.backends.mkldnn.is_available():
        return "this build of torch is without oneDNN"
    known = set(torch._C._dispatch_get_all_op_names())
    if not {PRODUCT, REORDER} <= known:
        return "this version of torch has no packed layers"
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "oneDNN has no bf16 on this processor"
    return ""


def post_operation(activation: nn.Module) -> tuple[str, str] | None:
    """What oneDNN calls an activation that it can do before it rounds; None for one that it does not know exactly."""
    if type(activation) is nn.GELU:
        # Equal to the same GELU of the unrounded product: the exact one stays exact.
        return "gelu", activation.approximate
    return ("relu", "") if type(activation) is nn.ReLU else None


class PackedLinear(JointLinear):
    """A linear layer for inference, with what follows it. Only under bf16 autocast without gradient it is quicker.

    Elsewhere (in float32 regions of a model, for a gradient) it computes with the layer that it stands for, whose
    parameters it shares under their own names.

    Args:
        layer: the layer; it is not changed.
        activation: applied to the product; one that :func:`post_operation` knows.
        scale: ``(out,)``, a factor of every output, behind the activation; only without activation.
    """

    def __init__(
        self,
        layer: nn.Linear | KeylessLinear,
        activation: nn.Module | None = None,
        scale: Float[Tensor, " out"] | None = None,
    ) -> None:
        super().__init__()
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)
        # In a tuple, so that its parameters do not have two names.
        self._exact = (layer, activation, scale)
        self._operation = None if activation is None else post_operation(activation)
        self._sources = (*self.parameters(), *(() if scale is None else (scale,)))
        self._pack()

    @torch.no_grad()
    def _pack(self) -> None:
        layer, _, scale = self._exact
        weight = layer.weight
        bias = layer.joint_bias() if isinstance(layer, KeylessLinear) else layer.bias
        if scale is not None:
            weight, bias = weight * scale.unsqueeze(1), None if bias is None else bias * scale
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(torch.bfloat16))
        self._bias = None if bias is None else bias.to(torch.bfloat16)
        self._versions = _versions(self._sources)

    def __getstate__(self) -> dict[str, Any]:
        """Without the packed matrix, whose memory nobody but oneDNN can copy."""
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Packed anew."""
        super().__setstate__(state)
        self._pack()

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """The layer, and what follows it."""
        if not _is_bf16_inference(x, *self._sources):
            return self.exact(x)
        # The matrices are copies: whoever writes into the parameters would get answers of neither.
        if _versions(self._sources) != self._versions:
            self._pack()
        what, how = self._operation or ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x.to(torch.bfloat16), self._packed, self._bias, what, [], how)

    def exact(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """The same by the layers that this one stands for, in the precision of the caller."""
        layer, activation, scale = self._exact
        x = layer(x)
        if activation is not None:
            x = activation(x)
        return x if scale is None else x * scale

    def third(self, x: Float[Tensor, "b n d"], third: int) -> Float[Tensor, "b n inner"]:
        """Queries (0), keys (1) or values (2) of a joint projection alone, by the layer that this one stands for."""
        return third_of(self._exact[0], x, third)


class RoundedNorm(nn.Module):
    """A LayerNorm for inference whose result is rounded to bf16 as it is written, for products that read it so.

    Under autocast the norm of float32 gives float32, which every product behind it casts; that of bf16 gives bf16, but
    torch takes its time. Where autocast is off, for a gradient and for other types than it is to read, it is the norm
    that it stands for, whose parameters it shares under their own names.

    Args:
        norm: the norm over the last dimension, with weight and bias; it is not changed.
        kernel: x, weight, bias and epsilon into the result in bf16.
        reads: float32 only where products alone read what the norm gives.
    """

    def __init__(
        self,
        norm: nn.LayerNorm,
        kernel: Callable[[Tensor, Tensor, Tensor, float], Tensor],
        reads: Collection[torch.dtype],
    ) -> None:
        super().__init__()
        for name, parameter in norm.named_parameters():
            self.register_parameter(name, parameter)
        self._exact = (norm,)
        self._kernel = kernel
        self._reads = frozenset(reads)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The norm."""
        (norm,) = self._exact
        if not _is_bf16_inference(x, norm.weight, norm.bias) or x.dtype not in self._reads:
            return norm(x)
        return self._kernel(x, norm.weight.detach(), norm.bias.detach(), norm.eps)


class Folded(nn.Module):
    """Stands where a module was whose work a :class:`PackedLinear` does now; its parameters keep their names.

    Args:
        module: what was there.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, parameter in module.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` as it is."""
        return x


def rounds_to_bf16() -> bool:
    """Whether autocast does a CPU's products in bf16 here."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _is_bf16_inference(x: Tensor, *parameters: Tensor) -> bool:
    if not rounds_to_bf16() or x.device.type != "cpu":
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters)))


def _versions(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """How often each was written to. Tensors made in inference mode do not count."""
    return tuple(-1 if tensor.is_inference() else tensor._version for tensor in tensors)
