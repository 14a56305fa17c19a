"""Every architecture by its name. A family adds one line to ``FAMILIES`` and one to ``MODELS``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from fnmatch import fnmatch
from typing import Any

import torch

from vitrail.contracts import VitrailError
from vitrail.models.beit import BEIT_MODELS, Beit, BeitConfig
from vitrail.models.clip import PAIR_MODELS, DualEncoder, DualEncoderConfig
from vitrail.models.conv import CONV_MODELS, ConvNeXt, ConvNeXtConfig, ResNet, ResNetConfig
from vitrail.models.detr import DETR_MODELS, Detr, DetrConfig
from vitrail.models.dinov3 import DINOV3_MODELS, DINOv3, DINOv3Config
from vitrail.models.dit import DIT_MODELS, DiffusionTransformer, DiTConfig
from vitrail.models.dvae import DVAE_MODELS, DiscreteVAE, DVAEConfig
from vitrail.models.mae import MAE_MODELS, MAEConfig, MaskedAutoencoder
from vitrail.models.model import Model, ModelConfig
from vitrail.models.sam import SAM_MODELS, Sam, SamConfig
from vitrail.models.sam_encoder import SAM_ENCODERS, SamEncoder, SamEncoderConfig
from vitrail.models.swin import SWIN_MODELS, Swin, SwinConfig
from vitrail.models.tower import TOWER_MODELS, ImageTower, ImageTowerConfig
from vitrail.models.video import VIDEO_MODELS, VideoConfig, VideoTransformer
from vitrail.models.videomae import VIDEOMAE_MODELS, MaskedVideoAutoencoder, VideoMAEConfig
from vitrail.models.vit import VIT_MODELS, VisionTransformer, ViTConfig

FAMILIES: dict[type[ModelConfig], Callable[[Any], Model]] = {
    ViTConfig: VisionTransformer,
    DINOv3Config: DINOv3,
    ResNetConfig: ResNet,
    ConvNeXtConfig: ConvNeXt,
    DiTConfig: DiffusionTransformer,
    DVAEConfig: DiscreteVAE,
    MAEConfig: MaskedAutoencoder,
    VideoConfig: VideoTransformer,
    VideoMAEConfig: MaskedVideoAutoencoder,
    DetrConfig: Detr,
    SwinConfig: Swin,
    BeitConfig: Beit,
    SamEncoderConfig: SamEncoder,
    SamConfig: Sam,
    ImageTowerConfig: ImageTower,
    DualEncoderConfig: DualEncoder,
}
MODELS: dict[str, ModelConfig] = {
    **VIT_MODELS,
    **DINOV3_MODELS,
    **CONV_MODELS,
    **DIT_MODELS,
    **DVAE_MODELS,
    **MAE_MODELS,
    **VIDEO_MODELS,
    **VIDEOMAE_MODELS,
    **DETR_MODELS,
    **SWIN_MODELS,
    **BEIT_MODELS,
    **SAM_ENCODERS,
    **SAM_MODELS,
    **TOWER_MODELS,
    **PAIR_MODELS,
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the architectures that match a shell pattern (``"vit_*dinov2"``), sorted."""
    return sorted(name for name in MODELS if fnmatch(name, pattern))


def config_of(name: str, overrides: Mapping[str, Any] | None = None) -> ModelConfig:
    """The config of a named architecture, with some fields replaced.

    Raises:
        VitrailError: unknown name (with the nearest ones) or unknown field (with those there are).
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "see list_models()"
        raise VitrailError(f"there is no model {name!r}: {hint}")
    return with_overrides(MODELS[name], overrides or {}, name)


def with_overrides(config: ModelConfig, overrides: Mapping[str, Any], name: str) -> ModelConfig:
    """A config with some fields replaced; lists, as YAML and JSON have them, become tuples.

    Raises:
        VitrailError: an unknown field, with those there are; or values that do not fit together.
    """
    known = {field.name for field in fields(config)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise VitrailError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return replace(config, **{name: tuple(v) if isinstance(v, list) else v for name, v in overrides.items()})


def build(config: ModelConfig) -> Model:
    """A model with fresh weights from its config."""
    return FAMILIES[type(config)](config)


def build_unfilled(config: ModelConfig) -> Model:
    """A model whose weights are all about to be loaded: initialising them would only cost time."""
    with torch.device("meta"):
        model = build(config)
    stored = model.state_dict().keys()
    if any(name not in stored for name, _ in model.named_buffers()):
        return build(config)  # What is computed and not stored (frequencies, coordinates) only a real build makes.
    return model.to_empty(device="cpu")
