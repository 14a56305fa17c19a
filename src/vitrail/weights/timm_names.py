"""What the name of a timm architecture says and neither its tensors nor the rest of its ``config.json`` do.

timm's hub files name their architecture and leave out whatever its constructor knows: heads, activation, kind of block.
The tables were read off timm's constructors; ``tests/weights/test_timm_names.py`` holds them against all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from vitrail.models import MODELS, PlainConfig
from vitrail.nn.activation import ActivationName
from vitrail.weights.files import CheckpointError, Raw

HEADS: dict[str, tuple[int, int]] = {
    "vit_base_patch16_gap_*": (768, 16),
    "vit_giantopt_*": (1536, 16),
    "test_vit": (64, 2),
    "test_vit2": (64, 2),
}
"""Width and heads of the architectures that are no models here and whose heads their width does not tell."""

ACTIVATIONS: dict[str, ActivationName] = {
    "*_clip_quickgelu_*": "quick_gelu",
    "vit_base_patch32_siglip_*": "gelu_tanh",
    "vit_large_patch16_siglip_*512": "gelu_tanh",
    "vit_so400m_patch16_siglip_*": "gelu_tanh",
    "vit_giantopt_patch16_siglip_*": "gelu_tanh",
}
"""Of those with another than the exact GELU; timm runs the other SigLIP towers, trained with the tanh form, exactly."""

OTHERS = {
    "vit_*_rpn_*": "its blocks have their norms behind attention and MLP (residual post-norm)",
    "vit_*_rope_*": "its attention turns queries and keys by rotary positions",
    "vit_pe_*": "its attention turns queries and keys by rotary positions",
    "test_vit3": "its pool reads the register too",
}
"""Architectures with tensors of the same names as models here, which compute something else."""

POOLS = ("", "token", "avg", "map")


def architecture_of(config: Mapping[str, Any]) -> str:
    """The name in a ``config.json``, without the tag of its weights; empty when there is none."""
    return str(config.get("architecture") or "").partition(".")[0]


def arguments_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a ``config.json`` changes of the architecture that it names."""
    return config.get("model_args") or {}


def require_readable(raw: Raw) -> None:
    """Refuse what would be read into a model that computes something else.

    Raises:
        CheckpointError: an architecture or a pool that no model here has.
    """
    name, pool = architecture_of(raw.config), str(raw.config.get("global_pool") or "")
    reasons = [reason for pattern, reason in OTHERS.items() if fnmatchcase(name, pattern)]
    if pool not in POOLS:
        reasons.append(f"its pool is {pool!r}")
    if arguments_of(raw.config).get("pool_include_prefix"):
        reasons.append("its pool reads the class token and the registers too")
    if reasons:
        raise CheckpointError(
            f"{raw.path}: timm's {name or 'model'} has tensors of the same names as a Vision Transformer of Vitrail, "
            f"but {' and '.join(reasons)}: no such model can be had here"
        )


def heads_of_name(raw: Raw) -> int | None:
    """Heads that a ``config.json`` names, or its architecture has at the width of the file; None where neither does."""
    told = arguments_of(raw.config).get("num_heads")
    if told is not None:
        return int(told)
    known, patches = _size_of(architecture_of(raw.config)), raw.tensors.get("patch_embed.proj.weight")
    if known is None or patches is None:
        return None
    width, heads = known
    # Another width that nothing tells of: then the name does not describe the file.
    described = len(patches) == int(arguments_of(raw.config).get("embed_dim", width)) and len(patches) % heads == 0
    return heads if described else None


def _size_of(name: str) -> tuple[int, int] | None:
    """Width and heads of an architecture."""
    config = MODELS.get(name.replace("_qkvb", ""))
    if isinstance(config, PlainConfig):
        return config.embed_dim, config.num_heads
    return next((size for pattern, size in HEADS.items() if fnmatchcase(name, pattern)), None)


def activation_of(raw: Raw) -> ActivationName:
    """Which GELU the model has: its argument, else its name's, else the exact one.

    Raises:
        CheckpointError: an activation that no model here has.
    """
    name = architecture_of(raw.config)
    named = next((act for pattern, act in ACTIVATIONS.items() if fnmatchcase(name, pattern)), "gelu")
    told = str(arguments_of(raw.config).get("act_layer") or named)
    known: dict[str, ActivationName] = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
    if told not in known:
        raise CheckpointError(f"{raw.path}: its activation {told!r} is not known; known are {', '.join(known)}")
    return known[told]
