"""SAM for Transformers, its image encoder alone for Transformers and timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.data.preprocess import Preprocess
from vitrail.models import SamConfig, SamEncoderConfig
from vitrail.models.sam_encoder import SAM_ENCODERS
from vitrail.nn.embed import as_pair
from vitrail.weights import sam
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import Files
from vitrail.weights.preprocessing import to_timm, to_transformers

TIMM_EPS = 1e-5


def for_transformers(
    config: SamEncoderConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``SamModel.from_pretrained``, of an image encoder alone for ``SamVisionModel``."""
    if config.num_classes:
        raise CheckpointError("Transformers' SamVisionModel has no classifier: take it away (num_classes=0)")
    if len({*as_pair(config.img_size)}) + len({*as_pair(config.patch_size)}) > 2:
        raise CheckpointError("Transformers' SAM takes square pictures and patches only")
    tensors = sam.write(sam.TRANSFORMERS, config, state)
    beside = {"config.json": _transformers_config(config), "preprocessor_config.json": to_transformers(preprocess)}
    return tensors, beside


def _transformers_config(config: SamEncoderConfig) -> dict[str, Any]:
    size, patch = as_pair(config.img_size)[0], as_pair(config.patch_size)[0]
    vision = {
        "model_type": "sam_vision_model",
        "hidden_size": config.embed_dim,
        "output_channels": config.neck_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_channels": config.in_channels,
        "image_size": size,
        "patch_size": patch,
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps,
        "attention_dropout": config.attention_dropout,
        "mlp_dim": int(config.embed_dim * config.mlp_ratio),
        "mlp_ratio": config.mlp_ratio,
        "window_size": config.window,
        "global_attn_indexes": list(config.global_blocks),
        "num_pos_feats": config.neck_dim // 2,
    }
    if not isinstance(config, SamConfig):
        return {"architectures": ["SamVisionModel"], "dtype": "float32", **vision}
    return {
        "architectures": ["SamModel"],
        "model_type": "sam",
        "dtype": "float32",
        "vision_config": vision,
        "prompt_encoder_config": {
            "model_type": "sam_prompt_encoder",
            "hidden_size": config.neck_dim,
            "image_size": size,
            "patch_size": patch,
            "image_embedding_size": size // patch,
            "mask_input_channels": config.mask_channels,
        },
        "mask_decoder_config": {
            "model_type": "sam_mask_decoder",
            "hidden_size": config.neck_dim,
            "hidden_act": "relu",
            "mlp_dim": config.decoder_mlp_dim,
            "num_hidden_layers": config.decoder_depth,
            "num_attention_heads": config.decoder_heads,
            "num_multimask_outputs": config.num_masks,
            "iou_head_hidden_dim": config.iou_dim,
            "layer_norm_eps": config.decoder_eps,
        },
    }


def for_timm(
    config: SamEncoderConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``timm.create_model("local-dir:…")``; the image encoder alone."""
    height, width = as_pair(config.img_size)
    if height != width:
        raise CheckpointError("timm's samvit is made for square pictures (and resizes its positions to others)")
    if config.norm_eps != TIMM_EPS:
        account.notes.append(f"timm's samvit has norms of epsilon {TIMM_EPS:g}, these weights of {config.norm_eps:g}")
    pretrained = {"input_size": [config.in_channels, height, width], "num_classes": config.num_classes}
    arguments = {
        "img_size": height,
        "patch_size": as_pair(config.patch_size)[0],
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "window_size": config.window,
        "global_attn_indexes": list(config.global_blocks),
        "neck_chans": config.neck_dim,
    }
    described = {
        "architecture": next(iter(SAM_ENCODERS)),
        "num_classes": config.num_classes,
        "num_features": config.neck_dim,
        "global_pool": "avg",
        "model_args": arguments,
        "pretrained_cfg": pretrained | to_timm(preprocess) | ({"label_names": list(classes)} if classes else {}),
    }
    return sam.write(sam.TIMM, config, state), {"config.json": described}
