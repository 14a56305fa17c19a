"""Swin for timm and for Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.data.preprocess import Preprocess
from vitrail.models import SwinConfig
from vitrail.models.swin import SWIN_MODELS
from vitrail.nn.embed import as_pair
from vitrail.weights import hf, timm
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import Files, rename
from vitrail.weights.preprocessing import to_timm, to_transformers
from vitrail.weights.swin import NORM_EPS, TIMM, TRANSFORMERS

OURS_ALONE = ("swin_tiny_patch4_window12_384", "swin_small_patch4_window12_384")
"""Names that timm does not have."""


def for_timm(
    config: SwinConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``timm.create_model("local-dir:…")``, in its new layout."""
    _require_their_eps(config, "timm")
    arguments = {
        "img_size": list(as_pair(config.img_size)),
        "patch_size": config.patch_size,
        "embed_dim": config.embed_dim,
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "window_size": config.window_size if isinstance(config.window_size, int) else list(config.window_size),
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
    }
    described = timm.folder_json(
        _timm_name(config), config, config.widths[-1], "avg", arguments, classes, to_timm(preprocess)
    )
    return rename(state, TIMM.table(config.depths)), {"config.json": described}


def for_transformers(
    config: SwinConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``from_pretrained``."""
    _require_their_eps(config, "Transformers")
    sides = {side for window in config.windows for side in window}
    if len(sides) > 1 or len(set(as_pair(config.patch_size))) > 1:
        raise CheckpointError(f"Transformers' Swin has one square window for all stages, not {config.windows}")
    tensors = rename(state, TRANSFORMERS.table(config.depths))
    if config.num_classes:
        tensors = {name if name.startswith("classifier.") else f"swin.{name}": t for name, t in tensors.items()}
    return tensors, {
        "config.json": {
            "architectures": ["SwinForImageClassification" if config.num_classes else "SwinModel"],
            "model_type": "swin",
            **_numbers(config, sides.pop()),
            **hf.classes_json(config.num_classes, classes),
        },
        "preprocessor_config.json": to_transformers(preprocess),
    }


def _timm_name(config: SwinConfig) -> str:
    """The name under which timm has the nearest architecture; the arguments say the rest."""
    theirs = {name: known for name, known in SWIN_MODELS.items() if name not in OURS_ALONE}
    same = [
        name
        for name, known in theirs.items()
        if (known.embed_dim, known.depths, known.num_heads) == (config.embed_dim, config.depths, config.num_heads)
    ]
    return next((n for n in same if theirs[n].window_size == config.window_size), (*same, *theirs)[0])


def _require_their_eps(config: SwinConfig, library: str) -> None:
    if config.norm_eps != NORM_EPS:
        raise CheckpointError(f"{library}'s Swin has norms with epsilon {NORM_EPS:g}, not {config.norm_eps:g}")


def _numbers(config: SwinConfig, window: int) -> dict[str, Any]:
    return {
        "image_size": config.img_size if isinstance(config.img_size, int) else list(config.img_size),
        "patch_size": as_pair(config.patch_size)[0],
        "num_channels": config.in_channels,
        "embed_dim": config.embed_dim,
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "window_size": window,
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "drop_path_rate": config.drop_path,
        "hidden_act": "gelu",
        "use_absolute_embeddings": False,
        "layer_norm_eps": config.norm_eps,
        "dtype": "float32",
    }
