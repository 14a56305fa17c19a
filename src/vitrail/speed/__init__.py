"""What a model costs: parameters, arithmetic, memory."""

from vitrail.speed.cost import Cost, Memory, PartCost, cost, inference_memory, macs, training_memory
from vitrail.speed.curve import Curve, curve, draw_curves

__all__ = [
    "Cost",
    "Curve",
    "Memory",
    "PartCost",
    "cost",
    "curve",
    "draw_curves",
    "inference_memory",
    "macs",
    "training_memory",
]
