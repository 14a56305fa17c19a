"""The families, and the one table of their names."""

from vitrail.models.autoencoder import Autoencoder, AutoencoderConfig
from vitrail.models.backbone import Backbone
from vitrail.models.beit import Beit, BeitConfig
from vitrail.models.catalogue import FAMILIES, MODELS, build, build_unfilled, config_of, list_models, with_overrides
from vitrail.models.clip import DualEncoder, DualEncoderConfig
from vitrail.models.conv import ConvNeXt, ConvNeXtConfig, ResNet, ResNetConfig
from vitrail.models.detr import Detr, DetrConfig, DetrOutput
from vitrail.models.dinov3 import DINOv3, DINOv3Config
from vitrail.models.dit import DiffusionTransformer, DiTConfig
from vitrail.models.dit_sample import sample_latents
from vitrail.models.dvae import DiscreteVAE, DVAEConfig
from vitrail.models.mae import MAEConfig, MaskedAutoencoder
from vitrail.models.model import Model, ModelConfig, shared_numbers
from vitrail.models.plain import Plain, PlainConfig
from vitrail.models.sam import Sam, SamConfig
from vitrail.models.sam_encoder import SamEncoder, SamEncoderConfig
from vitrail.models.swin import Swin, SwinConfig
from vitrail.models.text import TextTower
from vitrail.models.tower import ImageTower, ImageTowerConfig
from vitrail.models.video import VideoConfig, VideoTransformer
from vitrail.models.videomae import MaskedVideoAutoencoder, VideoMAEConfig
from vitrail.models.vit import VisionTransformer, ViTConfig

__all__ = [
    "FAMILIES",
    "MODELS",
    "Autoencoder",
    "AutoencoderConfig",
    "Backbone",
    "Beit",
    "BeitConfig",
    "ConvNeXt",
    "ConvNeXtConfig",
    "DINOv3",
    "DINOv3Config",
    "DVAEConfig",
    "Detr",
    "DetrConfig",
    "DetrOutput",
    "DiTConfig",
    "DiffusionTransformer",
    "DiscreteVAE",
    "DualEncoder",
    "DualEncoderConfig",
    "ImageTower",
    "ImageTowerConfig",
    "MAEConfig",
    "MaskedAutoencoder",
    "MaskedVideoAutoencoder",
    "Model",
    "ModelConfig",
    "Plain",
    "PlainConfig",
    "ResNet",
    "ResNetConfig",
    "Sam",
    "SamConfig",
    "SamEncoder",
    "SamEncoderConfig",
    "Swin",
    "SwinConfig",
    "TextTower",
    "ViTConfig",
    "VideoConfig",
    "VideoMAEConfig",
    "VideoTransformer",
    "VisionTransformer",
    "build",
    "build_unfilled",
    "config_of",
    "list_models",
    "sample_latents",
    "shared_numbers",
    "with_overrides",
]
