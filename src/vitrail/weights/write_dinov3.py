"""DINOv3 for timm and for Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.data.preprocess import Preprocess
from vitrail.models import DINOv3Config
from vitrail.models.dinov3 import DINOV3_MODELS
from vitrail.nn.embed import as_pair
from vitrail.nn.mlp import swiglu_hidden
from vitrail.weights.account import Account
from vitrail.weights.dinov3 import same_periods, timm_table, transformers_table
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import Files, State, expand, rename
from vitrail.weights.preprocessing import to_timm, to_transformers
from vitrail.weights.timm import NAME_OF_POOL


def for_timm(
    config: DINOv3Config,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``timm.create_model("local-dir:…")``."""
    if config.num_classes and config.pool == "class_mean":
        raise CheckpointError("timm's DINOv3 has no classifier that reads class token and mean of the patches")
    if config.pool == "attention":
        raise CheckpointError("the attention pool of timm's DINOv3 is not written")
    ours = _without_periods(state, config, account)
    if ours.pop("mask_token", None) is not None:
        account.dropped["mask_token"] = "timm's DINOv3 has no mask token"
    tensors = rename(ours, expand(timm_table(config.mlp == "swiglu"), config.depth))
    return tensors, {"config.json": _timm_json(config, classes, preprocess)}


def for_transformers(
    config: DINOv3Config,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``DINOv3ViTModel.from_pretrained``, which has no classifier."""
    if config.num_classes:
        raise CheckpointError("Transformers has no DINOv3 with a classifier: take it off first (num_classes=0)")
    if config.layer_scale is None or not config.class_token or config.pool_norm or config.pool == "attention":
        raise CheckpointError(
            "Transformers has no DINOv3 without class token or layer scale, or with a norm or attention in its pool"
        )
    ours = _without_periods(state, config, account)
    if "mask_token" not in ours:
        ours["mask_token"] = ours["cls_token"].new_zeros(1, config.embed_dim)
        account.missing["mask_token"] = "zeros: Transformers' DINOv3 always has one"
    ours["mask_token"] = ours["mask_token"].unsqueeze(0)
    # None is a tensor of no rows there.
    ours.setdefault("reg_token", ours["cls_token"].new_zeros(1, 0, config.embed_dim))
    tensors = rename(ours, expand(transformers_table("layer.{i}", config.mlp == "swiglu"), config.depth))
    return tensors, {
        "config.json": _transformers_json(config),
        "preprocessor_config.json": to_transformers(preprocess),
    }


def _without_periods(state: Mapping[str, Tensor], config: DINOv3Config, account: Account) -> State:
    exact = same_periods(state, config)
    account.dropped["rope.periods"] = "computed there" + (
        "" if exact else "; the stored ones are rounded to bfloat16, so that features differ in the third digit"
    )
    return {name: tensor for name, tensor in state.items() if name != "rope.periods"}


def _hidden(config: DINOv3Config) -> int:
    gated = config.mlp == "swiglu"
    return swiglu_hidden(config.embed_dim, config.mlp_ratio) if gated else int(config.embed_dim * config.mlp_ratio)


def _transformers_json(config: DINOv3Config) -> dict[str, Any]:
    sides = {name: set(as_pair(size)) for name, size in (("img", config.img_size), ("patch", config.patch_size))}
    if len(sides["patch"]) > 1:
        raise CheckpointError("Transformers' DINOv3 has square patches only")
    gated = config.mlp == "swiglu"
    return {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "hidden_size": config.embed_dim,
        "intermediate_size": _hidden(config),
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_register_tokens": config.registers,
        "image_size": config.img_size if isinstance(config.img_size, int) else list(config.img_size),
        "patch_size": as_pair(config.patch_size)[0],
        "num_channels": config.in_channels,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "layer_norm_eps": config.norm_eps,
        "layerscale_value": config.layer_scale,
        "query_bias": config.qkv_bias,
        "key_bias": False,
        "value_bias": config.qkv_bias,
        "rope_theta": config.rope_base,
        "pos_embed_shift": config.rope_shift,
        "pos_embed_jitter": config.rope_jitter,
        "pos_embed_rescale": config.rope_rescale,
        "attention_dropout": config.attention_dropout,
        "drop_path_rate": config.drop_path,
        "dtype": "float32",
    }


STRUCTURE = ("patch_size", "embed_dim", "depth", "num_heads", "mlp", "mlp_ratio", "registers")
"""What an architecture's name fixes in timm."""


def _timm_json(config: DINOv3Config, classes: tuple[str, ...], preprocess: Preprocess) -> dict[str, Any]:
    height, width = as_pair(config.img_size)
    name = next(
        (
            name
            for name, known in DINOV3_MODELS.items()
            if all(getattr(known, field) == getattr(config, field) for field in STRUCTURE)
        ),
        None,
    )
    pool = NAME_OF_POOL.get(config.pool, "token")
    arguments: dict[str, Any] = {
        "img_size": [height, width],
        "global_pool": pool,
        "use_fc_norm": config.pool_norm,
        "qkv_bias": config.qkv_bias,
        "init_values": config.layer_scale,
        "rope_temperature": config.rope_base,
    }
    if name is None:
        arguments |= {
            "patch_size": config.patch_size,
            "embed_dim": config.embed_dim,
            "depth": config.depth,
            "num_heads": config.num_heads,
            "mlp_ratio": _hidden(config) / config.embed_dim,
            "swiglu_mlp": config.mlp == "swiglu",
            "swiglu_align_to": 8,
            "num_reg_tokens": config.registers,
            "class_token": config.class_token,
        }
    pretrained = {
        "input_size": [config.in_channels, height, width],
        "num_classes": config.num_classes,
        **to_timm(preprocess),
        **({"label_names": list(classes)} if classes else {}),
    }
    return {
        "architecture": name or "vit_small_patch16_dinov3",
        "num_classes": config.num_classes,
        "num_features": config.embed_dim,
        "global_pool": pool,
        "model_args": arguments,
        "pretrained_cfg": pretrained,
    }
