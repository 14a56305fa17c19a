"""DETR for Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.data.preprocess import Preprocess
from vitrail.models import DetrConfig
from vitrail.weights.account import Account
from vitrail.weights.detr import FILES, TRANSFORMERS, Backbone
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import Files, rename
from vitrail.weights.preprocessing import to_transformers
from vitrail.weights.write_conv import resnet_numbers

TIMM_NAMES: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2): "resnet26",
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}
"""timm's bottleneck ResNets by the blocks of their stages."""


def for_transformers(
    config: DetrConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``from_pretrained``; its ResNet is Transformers' own, or timm's where a stage is dilated."""
    backbone = Backbone(FILES, own=not config.dilation)
    table = TRANSFORMERS.table(backbone, config.depths, config.encoder_depth, config.decoder_depth)
    return rename(state, table), {
        "config.json": config_json(config, classes),
        "preprocessor_config.json": to_transformers(preprocess),
    }


def config_json(config: DetrConfig, classes: tuple[str, ...]) -> dict[str, Any]:
    """Transformers' ``config.json`` for this architecture.

    Raises:
        CheckpointError: a dilated ResNet that timm has no name for.
    """
    names = classes or tuple(f"LABEL_{i}" for i in range(config.num_classes))
    hidden = int(config.embed_dim * config.mlp_ratio)
    return {
        "architectures": ["DetrForObjectDetection"],
        "model_type": "detr",
        "d_model": config.embed_dim,
        "num_queries": config.num_queries,
        "num_channels": config.in_channels,
        "encoder_layers": config.encoder_depth,
        "decoder_layers": config.decoder_depth,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": hidden,
        "decoder_ffn_dim": hidden,
        "activation_function": "relu",
        "position_embedding_type": "sine",
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.dropout,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "dtype": "float32",
        **(_timm_backbone(config) if config.dilation else _own_backbone(config)),
    }


def _timm_backbone(config: DetrConfig) -> dict[str, Any]:
    name = TIMM_NAMES.get(config.depths)
    if name is None:
        raise CheckpointError(
            f"Transformers takes dilated ResNets from timm, which has none of the depths {config.depths}"
        )
    return {"use_timm_backbone": True, "backbone": name, "backbone_config": None, "dilation": True}


def _own_backbone(config: DetrConfig) -> dict[str, Any]:
    resnet = {**resnet_numbers(config.in_channels, config.depths, "bottleneck"), "out_features": ["stage4"]}
    return {"use_timm_backbone": False, "backbone": None, "backbone_config": resnet, "dilation": False}
