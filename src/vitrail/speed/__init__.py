"""What a model costs before it is run, parameters, arithmetic, memory, time; and the quickest way to run it."""

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
    "draw_curves",
    "inference_memory",
    "macs",
    "predict_time",
    "prepare",
    "training_memory",
]
