"""Low-rank adaptation: a frozen linear layer plus a small learned one, folded together when training ends."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.nn.linear import KeylessLinear


class LoRALinear(nn.Linear):
    """``W x + (alpha / rank) · B A x`` with ``W`` frozen (Hu et al. 2022, section 4.1).

    ``B`` starts at zero, so that the model starts where the frozen one stands. The frozen layer's own parameters keep
    their names.

    Args:
        base: the layer to adapt; its parameters are shared, not copied.
        rank: inner width of the update.
        alpha: scale of the update times ``rank``.
    """

    def __init__(self, base: nn.Linear, rank: int = 8, alpha: float = 16.0) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.lora_a, self.lora_b, self.scale = _fresh_update(base.weight, rank, alpha)
        _share_frozen(base, self)

    def forward(self, input: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """The adapted layer."""
        update = F.linear(F.linear(input, self.lora_a), self.lora_b)
        return F.linear(input, self.weight, self.bias) + self.scale * update

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain linear layer that gives the same answers."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight + self.scale * (self.lora_b @ self.lora_a))
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.clone())
        return plain


class LoRAKeyless(KeylessLinear):
    """The same beside a joint projection whose keys have no bias.

    Args:
        base: the projection to adapt; its parameters are shared, not copied.
        rank: inner width of the update of all three.
        alpha: scale of the update times ``rank``.
    """

    def __init__(self, base: KeylessLinear, rank: int = 8, alpha: float = 16.0) -> None:
        with torch.device("meta"):
            super().__init__(base.weight.shape[1], base.weight.shape[0])
        self.lora_a, self.lora_b, self.scale = _fresh_update(base.weight, rank, alpha)
        _share_frozen(base, self)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n out"]:
        """The adapted projection."""
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    def third(self, x: Float[Tensor, "b n d"], third: int) -> Float[Tensor, "b n inner"]:
        """Queries (0), keys (1) or values (2) alone."""
        update = F.linear(F.linear(x, self.lora_a), self.lora_b.chunk(3)[third])
        return super().third(x, third) + self.scale * update

    @torch.no_grad()
    def merged(self) -> KeylessLinear:
        """A projection without update that gives the same answers."""
        with torch.device("meta"):
            plain = KeylessLinear(self.weight.shape[1], self.weight.shape[0])
        plain.weight = nn.Parameter(self.weight + self.scale * (self.lora_b @ self.lora_a))
        plain.q_bias, plain.v_bias = nn.Parameter(self.q_bias.clone()), nn.Parameter(self.v_bias.clone())
        return plain


def _fresh_update(weight: Tensor, rank: int, alpha: float) -> tuple[nn.Parameter, nn.Parameter, float]:
    """``A``, ``B`` and the scale of their product."""
    out, width = weight.shape
    if not 1 <= rank <= min(width, out):
        raise ValueError(f"rank must be between 1 and {min(width, out)}, not {rank}")
    down = nn.Parameter(weight.new_empty(rank, width))
    nn.init.kaiming_uniform_(down, a=math.sqrt(5))
    return down, nn.Parameter(weight.new_zeros(out, rank)), alpha / rank


def _share_frozen(base: nn.Module, adapted: nn.Module) -> None:
    """``base``'s own parameters stand in ``adapted`` under their names, and learn no more."""
    for name, parameter in base.named_parameters(recurse=False):
        parameter.requires_grad_(False)
        adapted.register_parameter(name, parameter)


def add_lora(root: nn.Module, chosen: Callable[[str], bool], rank: int = 8, alpha: float = 16.0) -> int:
    """Adapt every linear layer below ``root`` whose dotted name is chosen; how many there were."""
    layers = [(name, layer) for name, layer in root.named_modules() if chosen(name)]
    adapted = [(name, new) for name, layer in layers if (new := _adapted(layer, rank, alpha)) is not None]
    for name, layer in adapted:
        root.set_submodule(name, layer)
    return len(adapted)


def _adapted(layer: nn.Module, rank: int, alpha: float) -> nn.Module | None:
    if isinstance(layer, nn.Linear):
        return LoRALinear(layer, rank, alpha)
    return LoRAKeyless(layer, rank, alpha) if isinstance(layer, KeylessLinear) else None


def merge_lora(root: nn.Module) -> None:
    """Fold every adapted layer below ``root`` into a plain one, in place."""
    for name, layer in list(root.named_modules()):
        if isinstance(layer, LoRALinear | LoRAKeyless):
            root.set_submodule(name, layer.merged())


def without_lora(root: nn.Module) -> nn.Module:
    """``root`` as it is where it has no adapted layer; else a copy with all of them folded in."""
    if not any(isinstance(layer, LoRALinear | LoRAKeyless) for layer in root.modules()):
        return root
    plain = copy.deepcopy(root)
    merge_lora(plain)
    return plain
