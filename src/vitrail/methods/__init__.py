"""Objectives: one paper, one file."""

from vitrail.methods.beit import BEiT, BEiTOptions
from vitrail.methods.classify import Classify
from vitrail.methods.clip import CLIP, CLIPOptions
from vitrail.methods.dino import DINO, DINOOptions
from vitrail.methods.dinov2 import DINOv2, DINOv2Options
from vitrail.methods.distill import Distill, DistillOptions
from vitrail.methods.distill_features import DistillFeatures, DistillFeaturesOptions
from vitrail.methods.mae import MAE, MAEOptions
from vitrail.methods.simmim import SimMIM, SimMIMOptions
from vitrail.methods.teacher import Teacher
from vitrail.methods.tokenizer import Tokenizer, TokenizerOptions
from vitrail.methods.videomae import TubeView, VideoMAE, VideoMAEOptions

__all__ = [
    "CLIP",
    "DINO",
    "MAE",
    "BEiT",
    "BEiTOptions",
    "CLIPOptions",
    "Classify",
    "DINOOptions",
    "DINOv2",
    "DINOv2Options",
    "Distill",
    "DistillFeatures",
    "DistillFeaturesOptions",
    "DistillOptions",
    "MAEOptions",
    "SimMIM",
    "SimMIMOptions",
    "Teacher",
    "Tokenizer",
    "TokenizerOptions",
    "TubeView",
    "VideoMAE",
    "VideoMAEOptions",
]
