"""OpenVINO on Vitrail's graph, with either of its two hints."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import openvino

from vitrail.jobs.benching.case import Case
from vitrail.nn.attention import attention_kernel
from vitrail.speed.bench.work import Work

VERSIONS = {"openvino": openvino.__version__.split("-")[0]}


def latency(case: Case) -> Work:
    """One request after the other."""
    compiled, images = _compiled(case, "LATENCY"), case.images().numpy()
    request = compiled.create_infer_request()

    def run() -> Any:
        return request.infer([images], share_inputs=True)[0]

    return Work(run, case.batch_size, lambda: run().copy(), lambda: case.precision, VERSIONS)


def throughput(case: Case) -> Work:
    """As many requests at once as it asks for; a call is all of them."""
    compiled, images = _compiled(case, "THROUGHPUT"), case.images().numpy()
    count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    queue = openvino.AsyncInferQueue(compiled, count)

    def run() -> None:
        for _ in range(count):
            queue.start_async([images], share_inputs=True)
        queue.wait_all()

    def answer() -> Any:
        return compiled([images])[0].copy()

    return Work(run, count * case.batch_size, answer, lambda: f"{case.precision}, {count} at once", VERSIONS)


def _compiled(case: Case, mode: Literal["LATENCY", "THROUGHPUT"]) -> openvino.CompiledModel:
    with attention_kernel("fused"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = case.images()
        graph = openvino.convert_model(case.to_export(), example_input=images, input=[list(images.shape)])
    options = {
        "PERFORMANCE_HINT": mode,
        "INFERENCE_PRECISION_HINT": "bf16" if case.bf16 else "f32",
        "INFERENCE_NUM_THREADS": case.threads,
    }
    return openvino.Core().compile_model(graph, "CPU", options)
