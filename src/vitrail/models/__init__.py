"""The families, and the one table of their names."""

from vitrail.models.backbone import Backbone
from vitrail.models.catalogue import MODELS, build, config_of, list_models
from vitrail.models.vit import VisionTransformer, ViTConfig

__all__ = ["MODELS", "Backbone", "ViTConfig", "VisionTransformer", "build", "config_of", "list_models"]
