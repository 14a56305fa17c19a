"""Static 8-bit quantisation after training, by NNCF: weights by channel, activations by what calibration shows.

SmoothQuant (Xiao et al. 2023) moves outliers of the activations into the weights first. What a network reads first and
says last stays in higher precision (8 bits in the patch projection alone double the error of DINOv2 ViT-S); a plan says
what else does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from vitrail.graphs.needs import need
from vitrail.graphs.signal_stack import kept_signal_stack

SMOOTHNESS = 0.5
"""How much of the outliers moves into the weights: SmoothQuant's α, in the middle as the paper recommends."""

ACTIVATIONS = ("Gelu", "Relu", "Swish", "HSwish", "Multiply")
"""What stands before the second product of an MLP, in OpenVINO's words; gated ones end in a product of two halves."""


@dataclass(frozen=True)
class Plan:
    """Which products stay as they are, besides the first and the last.

    Attributes:
        name: what is in 8 bits, for the report.
        keeps: from a node of the graph to whether it stays.
    """

    name: str
    keeps: Callable[[Any], bool]


def _has_weights(node: Any) -> bool:
    return node.input_value(1).get_node().get_type_name() == "Constant"


def _behind_activation(node: Any) -> bool:
    return _has_weights(node) and node.input_value(0).get_node().get_type_name() in ACTIVATIONS


PLANS: tuple[Plan, ...] = (
    Plan("all products", lambda node: False),
    Plan("all products but those behind an activation", _behind_activation),
)
"""From the quickest to the most careful."""


@kept_signal_stack()
def quantise_graph(graph: Path, pictures: Float[Tensor, "n c h w"], plan: Plan) -> Any:
    """The graph in 8 bits, as an ``openvino.Model``.

    Args:
        graph: in float32, ``.onnx`` or ``.xml``.
        pictures: normalised, as the model reads them: a few hundred of those that it will work on.
        plan: what stays in higher precision.

    Raises:
        VitrailError: openvino or nncf is missing.
    """
    openvino = need("openvino", "openvino", "8-bit quantisation")
    nncf = need("nncf", "openvino", "8-bit quantisation")
    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(graph)
    return nncf.quantize(
        model,
        nncf.Dataset([picture.unsqueeze(0).numpy() for picture in pictures]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(pictures),
        ignored_scope=nncf.IgnoredScope(names=kept_nodes(model, plan), validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTHNESS)
        ),
    )


def kept_nodes(model: Any, plan: Plan) -> list[str]:
    """Names of the nodes that are not quantised: the convolution that reads the picture, the classifier, the plan's."""
    nodes = model.get_ordered_ops()
    first = [one for one in nodes if one.get_type_name() == "Convolution"][:1]
    products = [one for one in nodes if one.get_type_name() == "MatMul"]
    last = [products[-1]] if "logits" in model.outputs[0].names and products else []
    names = {node.get_friendly_name() for node in (*first, *last, *filter(plan.keeps, products))}
    return sorted(names)
