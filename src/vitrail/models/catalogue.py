"""Every architecture by its name. A family adds one line to ``FAMILIES`` and one to ``MODELS``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from fnmatch import fnmatch
from inspect import formatannotation
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
from vitrail.models.plain import require_rates
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
        VitrailError: an unknown field, with those there are; a value of another type than the field's or out of its
            range; or values that do not fit together.
    """
    known = {field.name for field in fields(config)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise VitrailError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    given = {field: tuple(value) if isinstance(value, list) else value for field, value in overrides.items()}
    _require_types(given, get_type_hints(type(config)), name)
    _require_sizes(given)
    require_rates(given)
    return replace(config, **given)


def _require_types(given: Mapping[str, Any], hints: Mapping[str, Any], name: str) -> None:
    """Refuse values that PyTorch would stumble over far from here, where nothing says which option was meant."""
    for field, value in given.items():
        if not _fits(value, hints[field]):
            raise VitrailError(f"{name}: {field} must be {formatannotation(hints[field])}, not {value!r}")


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type, of those that configs use: ints (also numpy's) are floats too, bools neither."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        wanted = (parts[0],) * len(value) if Ellipsis in parts else parts
        return len(value) == len(wanted) and all(map(_fits, value, wanted))
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    return isinstance(value, hint)


SIZES = ("img_size", "patch_size", "in_channels", "embed_dim", "num_heads")
"""Fields that everything else is divided by or made of."""


def _require_sizes(given: Mapping[str, Any]) -> None:
    for field in SIZES:
        value = given.get(field, 1)
        if any(number < 1 for number in (value if isinstance(value, tuple) else (value,))):
            raise VitrailError(f"{field} must be at least 1, not {value}")


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
