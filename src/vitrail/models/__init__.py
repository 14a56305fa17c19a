"""The families, and the one table of their names."""

from vitrail.models.backbone import Backbone
from vitrail.models.catalogue import FAMILIES, MODELS, build, build_unfilled, config_of, list_models, with_overrides
from vitrail.models.detr import Detr, DetrConfig, DetrOutput
from vitrail.models.dit import DiffusionTransformer, DiTConfig
from vitrail.models.dit_sample import sample_latents
from vitrail.models.model import Model, ModelConfig
from vitrail.models.plain import Plain, PlainConfig
from vitrail.models.vit import VisionTransformer, ViTConfig

__all__ = [
    "FAMILIES",
    "MODELS",
    "Backbone",
    "Detr",
    "DetrConfig",
    "DetrOutput",
    "DiTConfig",
    "DiffusionTransformer",
    "Model",
    "ModelConfig",
    "Plain",
    "PlainConfig",
    "ViTConfig",
    "VisionTransformer",
    "build",
    "build_unfilled",
    "config_of",
    "list_models",
    "sample_latents",
    "with_overrides",
]
