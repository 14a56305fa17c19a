"""Low-rank adaptation: a frozen linear layer plus a small learned one, folded together when training ends."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


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
        if not 1 <= rank <= min(base.in_features, base.out_features):
            raise ValueError(f"rank must be between 1 and {min(base.in_features, base.out_features)}, not {rank}")
        self.weight, self.bias = base.weight, base.bias
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(self.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(self.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

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


def add_lora(root: nn.Module, chosen: Callable[[str], bool], rank: int = 8, alpha: float = 16.0) -> int:
    """Adapt every linear layer below ``root`` whose dotted name is chosen; how many there were."""
    layers = [(name, layer) for name, layer in root.named_modules() if isinstance(layer, nn.Linear) and chosen(name)]
    for name, layer in layers:
        root.set_submodule(name, LoRALinear(layer, rank, alpha))
    return len(layers)


def merge_lora(root: nn.Module) -> None:
    """Fold every adapted layer below ``root`` into a plain one, in place."""
    for name, layer in list(root.named_modules()):
        if isinstance(layer, LoRALinear):
            root.set_submodule(name, layer.merged())


def without_lora(root: nn.Module) -> nn.Module:
    """``root`` as it is where it has no adapted layer; else a copy with all of them folded in."""
    if not any(isinstance(layer, LoRALinear) for layer in root.modules()):
        return root
    plain = copy.deepcopy(root)
    merge_lora(plain)
    return plain
