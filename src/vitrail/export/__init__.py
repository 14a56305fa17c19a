"""Models as graphs that other libraries run: ONNX and OpenVINO, checked against torch, and int8."""

from vitrail.export.cache import cached_graph, user_cache
from vitrail.export.check import TOLERANCE, Difference, differences
from vitrail.export.facts import Facts, Output
from vitrail.export.int8 import PLANS, Plan, quantise_graph
from vitrail.export.quantised import Quantised, is_quantised, read_quantised, write_quantised
from vitrail.export.runners import OnnxRunner, OpenVINORunner, Runner
from vitrail.export.traced import Traceable, outputs_of, trace, traceable
from vitrail.export.write import FORMATS, GraphFormat, write_graph

__all__ = [
    "FORMATS",
    "PLANS",
    "TOLERANCE",
    "Difference",
    "Facts",
    "GraphFormat",
    "OnnxRunner",
    "OpenVINORunner",
    "Output",
    "Plan",
    "Quantised",
    "Runner",
    "Traceable",
    "cached_graph",
    "differences",
    "is_quantised",
    "outputs_of",
    "quantise_graph",
    "read_quantised",
    "trace",
    "traceable",
    "user_cache",
    "write_graph",
    "write_quantised",
]
