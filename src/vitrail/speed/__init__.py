"""What a model costs (parameters, arithmetic, memory, time), and how it is asked most quickly."""

from vitrail.speed.cost import Cost, Memory, PartCost, cost, inference_memory, macs, training_memory
from vitrail.speed.curve import Curve, curve
from vitrail.speed.merge import merged
from vitrail.speed.predict_time import PredictedTime, Rates, calibrate, predict_time, prepared_attention
from vitrail.speed.prepare import Prepared, prepare

__all__ = [
    "Cost",
    "Curve",
    "Memory",
    "PartCost",
    "PredictedTime",
    "Prepared",
    "Rates",
    "calibrate",
    "cost",
    "curve",
    "inference_memory",
    "macs",
    "merged",
    "predict_time",
    "prepare",
    "prepared_attention",
    "training_memory",
]
