"""Image towers for timm, pairs for Transformers; a pair's image tower, with its projection as the head, for timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitrail.data.preprocess import Preprocess
from vitrail.models import DualEncoderConfig, ImageTowerConfig
from vitrail.weights import hf_clip, timm_tower
from vitrail.weights.account import Account
from vitrail.weights.infer_clip import part_of
from vitrail.weights.names import Files
from vitrail.weights.preprocessing import to_timm, to_transformers


def tower_for_timm(
    config: ImageTowerConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``timm.create_model("local-dir:…")``."""
    description = timm_tower.config_json(config, config.num_classes, classes, to_timm(preprocess))
    return timm_tower.write(config, state), {"config.json": description}


def pair_for_timm(
    config: DualEncoderConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """The image tower of a pair, as timm has it: its projection is the head, with a bias of zeros."""
    tower = part_of(state, "image")
    outputs = 0
    if config.image_projection:
        outputs = config.joint_dim
        tower["head.weight"] = state["image_proj.weight"]
        tower["head.bias"] = torch.zeros(outputs)
        account.missing["head.bias"] = "zeros: the projection of a pair has none"
    for name in state:
        if not name.startswith(("image.", "image_proj.")):
            account.drop(name, "timm has image towers alone")
    description = timm_tower.config_json(config.tower, outputs, (), to_timm(preprocess))
    return timm_tower.write(config, tower), {"config.json": description}


def pair_for_transformers(
    config: DualEncoderConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``from_pretrained``."""
    return hf_clip.write_pair(config, state), {
        "config.json": hf_clip.pair_json(config),
        "preprocessor_config.json": _processor(config, preprocess),
    }


def _processor(config: DualEncoderConfig, preprocess: Preprocess) -> dict[str, Any]:
    """Under the name of the family's own processor, where that can do what is wanted."""
    values = to_transformers(preprocess)
    if hf_clip.kind_of(config) == "clip" and preprocess.resize == "shortest":
        values["image_processor_type"] = "CLIPImageProcessor"
    elif values["image_processor_type"] == "ViTImageProcessor":
        values["image_processor_type"] = "SiglipImageProcessor"
    return values
