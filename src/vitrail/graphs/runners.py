"""Graphs at work: pictures in, named answers out, by whichever library runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.graphs.facts import Output
from vitrail.graphs.needs import need
from vitrail.graphs.signal_stack import kept_signal_stack

Asked = Literal["auto", "fp32", "bf16"]


class Runner(ABC):
    """A loaded graph on the CPU.

    Attributes:
        precision: the number format that it computes in.
        choice: one line for the log.
    """

    precision: Literal["fp32", "bf16"]
    choice: str

    @abstractmethod
    def __call__(self, images: Float[Tensor, "b ..."], names: Sequence[Output]) -> list[Tensor]:
        """The named outputs for normalised float32 pictures on the CPU, each ``(B, …)`` in float32."""


class OnnxRunner(Runner):
    """A graph in onnxruntime, in float32.

    Args:
        graph: ``.onnx``.
        precision: "auto" or "fp32".

    Raises:
        VitrailError: onnxruntime is missing, or bf16 was asked for.
    """

    def __init__(self, graph: Path, precision: Asked = "auto") -> None:
        runtime = need("onnxruntime", "export", "--backend onnxruntime")
        if precision == "bf16":
            raise VitrailError("onnxruntime computes in fp32 on the CPU: --precision fp32, or --backend openvino")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.precision = "fp32"
        self.choice = f"onnxruntime {runtime.__version__}, fp32, {options.intra_op_num_threads} threads"

    def __call__(self, images: Float[Tensor, "b ..."], names: Sequence[Output]) -> list[Tensor]:
        """The named outputs; what only others need is not computed."""
        found = self.session.run(list(names), {"images": images.contiguous().numpy()})
        return [torch.from_numpy(values) for values in found]


class OpenVINORunner(Runner):
    """A graph in OpenVINO on the CPU.

    Batches of one run on all threads (the latency hint); larger ones are split over the streams that the throughput
    hint makes, which spares them waiting for each other.

    Args:
        graph: ``.onnx``, ``.xml``, or an ``openvino.Model``.
        precision: "auto" takes bf16 where the library finds that the machine has it.
        batch_size: pictures that will come at once.

    Raises:
        VitrailError: openvino is missing, or the machine has no bf16 and it was asked for.
    """

    @kept_signal_stack()
    def __init__(self, graph: Path | Any, precision: Asked = "auto", batch_size: int = 1) -> None:
        openvino = need("openvino", "openvino", "--backend openvino")
        core = openvino.Core()
        able = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not able:
            raise VitrailError("OpenVINO finds no bf16 on this machine: leave --precision out, or ask for fp32")
        self.precision = "bf16" if able and precision != "fp32" else "fp32"
        hint, threads = "LATENCY" if batch_size == 1 else "THROUGHPUT", torch.get_num_threads()
        self.compiled = core.compile_model(
            core.read_model(graph) if isinstance(graph, Path) else graph,
            "CPU",
            {
                "PERFORMANCE_HINT": hint,
                "INFERENCE_PRECISION_HINT": "f32" if self.precision == "fp32" else "bf16",
                "INFERENCE_NUM_THREADS": threads,
            },
        )
        count = self.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self.requests = [self.compiled.create_infer_request() for _ in range(count)]
        version = openvino.__version__.partition("-")[0]
        self.choice = f"OpenVINO {version}, {self.precision}, {threads} threads, {hint.lower()} hint ({count} at once)"

    def __call__(self, images: Float[Tensor, "b ..."], names: Sequence[Output]) -> list[Tensor]:
        """The named outputs; the graph is computed whole."""
        parts = images.contiguous().chunk(len(self.requests))
        used = self.requests[: len(parts)]
        for request, part in zip(used, parts, strict=True):
            request.start_async({"images": part.numpy()}, share_inputs=True)
        for request in used:
            request.wait()
        # The requests keep their memory for the next batch: what they found is copied.
        return [torch.cat([torch.from_numpy(one.get_tensor(name).data) for one in used]) for name in names]
