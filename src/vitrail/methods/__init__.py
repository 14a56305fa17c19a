"""Objectives: one paper, one file."""

from vitrail.methods.classify import Classify
from vitrail.methods.mae import MAE, MAEOptions
from vitrail.methods.simmim import SimMIM, SimMIMOptions

__all__ = ["MAE", "Classify", "MAEOptions", "SimMIM", "SimMIMOptions"]
