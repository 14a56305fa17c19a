"""BEiT for timm and for Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.data.preprocess import Preprocess
from vitrail.models import BeitConfig
from vitrail.models.beit import BEIT_MODELS
from vitrail.nn.embed import as_pair
from vitrail.weights import hf, timm
from vitrail.weights.account import Account
from vitrail.weights.beit import TIMM_TABLE, TRANSFORMERS_TABLE
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import Files, expand, rename
from vitrail.weights.preprocessing import to_timm, to_transformers

TIMM_EPS = 1e-6


def for_timm(
    config: BeitConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``timm.create_model("local-dir:…")``."""
    _require_shape(config, "timm")
    if config.norm_eps != TIMM_EPS:
        account.notes.append(f"timm's norms have epsilon {TIMM_EPS:g}, these had {config.norm_eps:g}: almost the same")
    ours = dict(state)
    if ours.pop("mask_token", None) is not None:
        account.dropped["mask_token"] = "timm's BEiT has no mask token"
    name = next(
        (n for n, c in BEIT_MODELS.items() if (c.embed_dim, c.img_size) == (config.embed_dim, config.img_size)),
        "beit_base_patch16_224",
    )
    pool = timm.NAME_OF_POOL[config.pool]
    arguments = {
        "img_size": list(as_pair(config.img_size)),
        "patch_size": config.patch_size,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "init_values": config.layer_scale,
        "use_abs_pos_emb": False,
        "use_rel_pos_bias": not config.shared_bias,
        "use_shared_rel_pos_bias": config.shared_bias,
        "global_pool": pool,
        "use_fc_norm": config.pool_norm,
    }
    described = timm.folder_json(name, config, config.embed_dim, pool, arguments, classes, to_timm(preprocess))
    return rename(ours, expand(TIMM_TABLE, config.depth)), {"config.json": described}


def for_transformers(
    config: BeitConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``from_pretrained``."""
    _require_shape(config, "Transformers")
    if (config.pool == "mean") != config.pool_norm:
        raise CheckpointError("Transformers' BEiT has its norm behind the mean, or before the class token")
    if len(set(as_pair(config.patch_size))) > 1:
        raise CheckpointError("Transformers' BEiT has square patches only")
    ours = dict(state)
    if "mask_token" in ours:
        ours["mask_token"] = ours["mask_token"].unsqueeze(0)
    tensors = rename(ours, expand(TRANSFORMERS_TABLE, config.depth))
    if config.num_classes:
        tensors = {name if name.startswith("classifier.") else f"beit.{name}": t for name, t in tensors.items()}
    return tensors, {
        "config.json": {
            "architectures": ["BeitForImageClassification" if config.num_classes else "BeitModel"],
            "model_type": "beit",
            **_numbers(config),
            **hf.classes_json(config.num_classes, classes),
        },
        "preprocessor_config.json": to_transformers(preprocess),
    }


def _require_shape(config: BeitConfig, library: str) -> None:
    if config.pool not in ("class", "mean") or not config.class_token or config.registers:
        raise CheckpointError(
            f"{library}'s BEiT has a class token, no registers, and reads that token or the mean of the patches"
        )


def _numbers(config: BeitConfig) -> dict[str, Any]:
    return {
        "image_size": config.img_size if isinstance(config.img_size, int) else list(config.img_size),
        "patch_size": as_pair(config.patch_size)[0],
        "num_channels": config.in_channels,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": int(config.embed_dim * config.mlp_ratio),
        "layer_scale_init_value": config.layer_scale or 0.0,
        "use_mask_token": config.mask_token,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": not config.shared_bias,
        "use_shared_relative_position_bias": config.shared_bias,
        "use_mean_pooling": config.pool == "mean",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "drop_path_rate": config.drop_path,
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps,
        "dtype": "float32",
    }
