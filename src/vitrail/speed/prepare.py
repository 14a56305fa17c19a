"""A model made ready for inference: the quickest exact way that the machine at hand has.

What changes results (int8, token merging) is not done here. In float32 the answers are those of the plain model, bit
for bit; in bf16 they are as near to float32 as those of autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from vitrail.machine import best_of, bf16_pays, remembered
from vitrail.models import Backbone, Model
from vitrail.nn.attention import MultiHeadAttention, Way, attention_kernel
from vitrail.nn.block import Block, ParallelBlock, pre_norm
from vitrail.nn.linear import KeylessLinear
from vitrail.nn.mlp import Mlp, SwiGLU
from vitrail.nn.residual import LayerScale
from vitrail.speed.malloc import freed_memory_is_kept
from vitrail.speed.native import Native, native_if_quicker
from vitrail.speed.packed import Folded, PackedLinear, RoundedNorm, missing_operators, post_operation
from vitrail.speed.twin import twin

M = TypeVar("M", bound=nn.Module)

AT_ONCE = 16 * 224 * 224
"""Pixels that a CPU works on at once where freed memory goes back to the system: more would wait for fresh pages."""
TIMED_ROWS, TIMED_DIM, TIMED_OUT = 788, 768, 3072
"""The layer by which packing is timed: the first of a ViT-B's MLP, on four pictures."""


@dataclass(frozen=True)
class Prepared(Generic[M]):
    """A model ready for inference. Called, it answers as the plain model does under autocast.

    Attributes:
        model: in evaluation mode, of the class that was given, with all its methods; to be called inside
            :meth:`context`.
        device: where it runs.
        form: what its numbers depend on, for fingerprints: ``"fp32"``, ``"bf16"`` or ``"bf16 packed"``, the last also
            ``"with native kernels"``.
        choice: one line for the log.
        at_once: pixels of a picture times pictures that are worked on together; None for all.
        attention: how it is computed; None for the usual ways.
    """

    model: M
    device: torch.device
    form: str
    choice: str
    at_once: int | None = None
    attention: Way | None = None

    def __call__(self, *inputs: Any) -> Any:
        """The model's own answer."""
        with self.context():
            if len(inputs) == 1 and isinstance(self.model, Backbone):
                return self.rows(self.model, inputs[0])
            return self.model(*inputs)

    @contextmanager
    def context(self) -> Iterator[None]:
        """Without gradients, in the precision that was chosen."""
        bf16 = self.form != "fp32"
        way: AbstractContextManager[object] = attention_kernel(self.attention) if self.attention else nullcontext()
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16), way:
            yield

    def rows(self, call: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """One row for each picture, from as many pictures at once as is quickest.

        Args:
            call: pictures to rows.
            images: ``(B, …)``.
        """
        if self.at_once is None or not len(images):
            return call(images)
        together = max(1, self.at_once // (images.shape[-2] * images.shape[-1]))
        if len(images) <= together:
            return call(images)
        return torch.cat([call(part) for part in images.split(together)])


def prepare(
    model: M, device: torch.device, precision: Literal["auto", "fp32", "bf16"] = "auto", batch_size: int = 1
) -> Prepared[M]:
    """A model as it is quickest to ask on ``device``.

    The caller's model stays as it is, mode and hooks included; parameters are shared with it. On a CPU in bf16 the
    linear layers are held a second time in bf16, laid out for the processor: half of what they take in float32.

    Args:
        model: any module, on ``device``; its parts are looked for by their types.
        device: where it is to run.
        precision: ``"auto"`` takes bf16 where the hardware proves quicker with it (timed once on each machine).
        batch_size: the most pictures that are given at once.
    """
    bf16, why = (precision == "bf16", "") if precision != "auto" else bf16_pays(device)
    said = f"{'bf16' if bf16 else 'fp32'} on {device.type}" + (f" ({why})" if why else "")
    if not bf16:
        return Prepared(twin(model).eval(), device, "fp32", f"{said}, layers as they are")
    gain, refusal = _gain_of_packing(device)
    if refusal:
        return Prepared(twin(model).eval(), device, "bf16", f"{said}, autocast alone: {refusal}")
    ready = twin(model).eval()
    packed, left = pack(ready)
    if not packed:
        return Prepared(ready, device, "bf16", f"{said}, autocast alone: there are no linear layers to pack")
    at_once = None if freed_memory_is_kept() else AT_ONCE
    said += f", {packed} linear layers packed (a product is {gain:.2f} times as quick)"
    said += f", {left} left to autocast" if left else ""
    kernels, heard = _kernels(ready, device)
    form, attention = "bf16 packed", None
    if kernels is not None:
        form, attention = "bf16 packed with native kernels", kernels.attention
        speed_residuals(ready, kernels)
    said += f", {heard}" if heard else ""
    side = _side(model)
    if at_once is not None and batch_size * side > at_once:
        said += f", {max(1, at_once // side)} pictures at once"
    return Prepared(ready, device, form, said, at_once, attention)


def pack(model: nn.Module) -> tuple[int, int]:
    """Pack the linear layers of a model in evaluation mode, in place, with the activations and scales that follow them.

    Returns:
        How many linear layers were packed, and how many others there are (adapted ones, or in another type than
        float32).
    """
    for module in list(model.modules()):
        if isinstance(module, Mlp):
            _fold_activation(module)
        if isinstance(module, Block | ParallelBlock):
            _fold_scale(module, "ls1", module.attn)
            _fold_scale(module, "ls2", module.mlp)
    for name, layer in list(model.named_modules()):
        if name and _is_packable(layer):
            model.set_submodule(name, PackedLinear(layer))
    layers = list(model.eval().modules())
    packed = sum(isinstance(layer, PackedLinear) for layer in layers)
    return packed, sum(isinstance(layer, nn.Linear | KeylessLinear) for layer in layers)


def speed_residuals(model: nn.Module, kernels: Native) -> None:
    """Let what stands between packed products be done by kernels, in place.

    Norms before them, sums behind them, and any other norm as far as it is given bf16.
    """

    def order(x: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
        added = branch(norm(x))
        return kernels.add(x[:, : added.shape[1]], added)

    parts = list(model.named_modules())
    before_products: set[nn.Module] = set()
    for _, block in parts:
        if isinstance(block, ParallelBlock) or (isinstance(block, Block) and block.order is pre_norm):
            before_products.update(block.children())
        if isinstance(block, Block) and block.order is pre_norm:
            block.order = order
    for name, norm in parts:
        if name and _is_plain_norm(norm):
            reads = (torch.float32, torch.bfloat16) if norm in before_products else (torch.bfloat16,)
            model.set_submodule(name, RoundedNorm(norm, kernels.norm, reads).eval())


def _is_plain_norm(norm: nn.Module) -> TypeGuard[nn.LayerNorm]:
    return (
        type(norm) is nn.LayerNorm
        and len(norm.normalized_shape) == 1
        and norm.elementwise_affine
        and norm.bias is not None
        and norm.weight.dtype == torch.float32
    )


def _fold_activation(mlp: Mlp) -> None:
    if _is_packable(mlp.fc1) and post_operation(mlp.act) is not None:
        mlp.set_submodule("fc1", PackedLinear(mlp.fc1, mlp.act))
        mlp.act = Folded(mlp.act)


def _fold_scale(block: nn.Module, name: str, branch: nn.Module) -> None:
    """Let the last linear layer of a branch do the layer scale that stands behind it."""
    scale, last = block.get_submodule(name), _last_layer(branch)
    if last is None or not isinstance(scale, LayerScale):
        return
    layer = branch.get_submodule(last)
    if _is_packable(layer):
        branch.set_submodule(last, PackedLinear(layer, scale=scale.gamma))
        block.set_submodule(name, Folded(scale))


def _last_layer(branch: nn.Module) -> str | None:
    """The linear layer that gives a branch's values, where nothing but a dropout stands behind it."""
    if isinstance(branch, MultiHeadAttention) and type(branch).forward is MultiHeadAttention.forward:
        return "proj"
    return {Mlp: "fc2", SwiGLU: "w3"}.get(type(branch))


def _is_packable(layer: nn.Module) -> TypeGuard[nn.Linear | KeylessLinear]:
    # Exactly these classes: a subclass (an adapter's, say) adds something of its own to what the matrix gives.
    return type(layer) in (nn.Linear, KeylessLinear) and next(layer.parameters()).dtype == torch.float32


def _gain_of_packing(device: torch.device) -> tuple[float, str]:
    """How many times as quick a packed layer is, and why packing is not for this machine (empty where it is)."""
    if device.type != "cpu":
        return 1.0, "packed layers are for the CPU"
    refusal = missing_operators()
    if refusal:
        return 1.0, refusal
    try:
        plain, packed = remembered("packed linear", device, _layer_times)
    except RuntimeError as error:
        return 1.0, f"a packed layer fails ({error})"
    return plain / packed, "" if packed < plain else "packed layers are no quicker here"


@torch.inference_mode()
def _layer_times() -> list[float]:
    layer = nn.Linear(TIMED_DIM, TIMED_OUT)
    packed, x = PackedLinear(layer), torch.randn(TIMED_ROWS, TIMED_DIM)
    with torch.autocast("cpu", torch.bfloat16):
        return best_of(lambda: layer(x), lambda: packed(x))


def _kernels(model: nn.Module, device: torch.device) -> tuple[Native | None, str]:
    """What is built here, where the model has attention and it is the quicker way; and why it is or not."""
    if not any(isinstance(part, MultiHeadAttention) for part in model.modules()):
        return None, ""
    return native_if_quicker(device)


def _side(model: nn.Module) -> int:
    """Pixels of one picture, as far as a model says."""
    return model.img_size[0] * model.img_size[1] if isinstance(model, Model) else 224 * 224
