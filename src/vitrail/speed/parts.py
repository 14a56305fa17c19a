"""The parts that a model's cost is told by: what people mean when they ask where the time or the memory goes."""

from __future__ import annotations

from torch import nn

from vitrail.nn.block import Block, ConditionedBlock, CrossBlock, ParallelBlock
from vitrail.nn.mixer import Mixer
from vitrail.nn.mlp import Mlp, SwiGLU

REST = "tokens and rest"

KINDS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((Mixer,), "attention"),
    ((Mlp, SwiGLU), "MLP"),
    ((Block, ParallelBlock, CrossBlock, ConditionedBlock), "norms and residuals"),
)


def part_names(model: nn.Module) -> dict[nn.Module, str]:
    """The part that every module belongs to: its place at the top of the model, and its kind inside a block."""
    names: dict[nn.Module, str] = {model: REST}
    for top, child in model.named_children():
        _name(child, top, None, names)
    return names


def _name(module: nn.Module, top: str, kind: str | None, names: dict[nn.Module, str]) -> None:
    found = next((name for kinds, name in KINDS if isinstance(module, kinds)), None)
    # Inside attention or an MLP everything is theirs; a block only gives its name to what has none.
    kind = kind if kind in ("attention", "MLP") else found or kind
    names[module] = top if kind is None else f"{top}: {kind}"
    for child in module.children():
        _name(child, top, kind, names)


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Parameters of every part, in the order of the model; shared ones count once."""
    names = part_names(model)
    counts: dict[str, int] = {}
    seen: set[nn.Parameter] = set()
    for module, part in names.items():
        own = [p for p in module.parameters(recurse=False) if p not in seen]
        seen.update(own)
        counts[part] = counts.get(part, 0) + sum(p.numel() for p in own)
    return counts
