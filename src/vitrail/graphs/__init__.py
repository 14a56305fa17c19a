"""Models as graphs that other libraries run: ONNX and OpenVINO, checked against torch, and 8 bits.

A room of its own, beside ``weights`` and ``speed``: it needs models, pools and preprocessing, and no room on its floor.
"""

from vitrail.graphs.cache import cached_graph
from vitrail.graphs.check import TOLERANCE, Difference, differences, require_equal
from vitrail.graphs.facts import Facts, Output
from vitrail.graphs.int8 import PLANS, Plan, quantise_graph
from vitrail.graphs.needs import need
from vitrail.graphs.quantised import Quantised, is_quantised, read_quantised, require_free, write_quantised
from vitrail.graphs.runners import OnnxRunner, OpenVINORunner, Runner
from vitrail.graphs.traced import Traceable, outputs_of, trace, traceable, usual_outputs
from vitrail.graphs.write import FORMATS, GraphFormat, write_graph

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
    "need",
    "outputs_of",
    "quantise_graph",
    "read_quantised",
    "require_equal",
    "require_free",
    "trace",
    "traceable",
    "usual_outputs",
    "write_graph",
    "write_quantised",
]
