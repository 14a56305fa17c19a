"""Objectives: one paper, one file."""

from vitrail.methods.classify import Classify
from vitrail.methods.dino import DINO, DINOOptions
from vitrail.methods.dinov2 import DINOv2, DINOv2Options
from vitrail.methods.mae import MAE, MAEOptions
from vitrail.methods.simmim import SimMIM, SimMIMOptions

__all__ = [
    "DINO",
    "MAE",
    "Classify",
    "DINOOptions",
    "DINOv2",
    "DINOv2Options",
    "MAEOptions",
    "SimMIM",
    "SimMIMOptions",
]
