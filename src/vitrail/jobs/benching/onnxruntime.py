"""onnxruntime on Vitrail's graph."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from vitrail.jobs.benching.case import Case
from vitrail.nn.attention import attention_kernel
from vitrail.speed.bench.work import Work

VERSIONS = {"onnxruntime": onnxruntime.__version__}
OPSET = 18


def inference(case: Case) -> Work:
    """In float32 whatever was asked for: its CPU kernels have no bfloat16."""
    images = case.images()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    with tempfile.TemporaryDirectory() as folder, attention_kernel("fused"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "model.onnx"
        torch.onnx.export(case.to_export(), (images,), file, dynamo=False, opset_version=OPSET)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: images.numpy()}

    def run() -> Any:
        return session.run(None, inputs)[0]

    return Work(run, case.batch_size, run, lambda: "fp32", VERSIONS)
