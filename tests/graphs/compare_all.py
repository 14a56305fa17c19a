"""Makes the graph of every tiny model that has one; prints each with the largest difference from torch, or the failure.

A process of its own, because the run-time checks of shapes that the tests install cannot be traced.
"""

import sys
import tempfile
from pathlib import Path

import torch

from tests.models.tiny import TINY
from vitrail.data import Preprocess
from vitrail.graphs import Facts, OnnxRunner, OpenVINORunner, Traceable, outputs_of, traceable, write_graph
from vitrail.models import build, config_of


def largest(name: str, size: tuple[int, int] | None) -> float:
    """Over both libraries, all outputs and batches of 1, 3 and 5, relative to the largest number."""
    torch.manual_seed(0)
    overrides = {"img_size": size} if size else {}
    encoder = traceable(build(config_of(name, {**TINY[name], **overrides})).eval())
    for parameter in encoder.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    model = Traceable(encoder, outputs_of(encoder)).eval()
    bands = encoder.in_channels
    preprocess = Preprocess(size=encoder.img_size, mean=(0.5,) * bands, std=(0.5,) * bands)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        file = Path(folder) / "graph.onnx"
        facts = Facts(type(encoder).__name__, model.outputs, (), preprocess)
        write_graph(model, facts, "onnx", file, lambda path: None)
        for runner in (OnnxRunner(file), OpenVINORunner(file, "fp32", batch_size=5)):
            for batch in (1, 3, 5):
                images = encoder.example_inputs(batch)[0]
                for one, other in zip(model(images), runner(images, model.outputs), strict=True):
                    assert one.shape == other.shape
                    worst = max(worst, float((one - other).abs().max() / one.abs().max()))
    return worst


if __name__ == "__main__":
    for given in sys.argv[1:]:
        name, _, size = given.partition("@")
        height, _, width = size.partition("x")
        print(given, largest(name, (int(height), int(width)) if size else None), flush=True)
