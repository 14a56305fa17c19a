"""A traced program as a file of another library's format, with what its user must know inside."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from vitrail.contracts import VitrailError
from vitrail.graphs.facts import Facts
from vitrail.graphs.needs import need
from vitrail.graphs.traced import Traceable, pictures_for, trace

GraphFormat = Literal["onnx", "openvino"]

OPSET = 20
"""The first ONNX operators with GELU as one of them."""
LIMIT = 2**31 - 2**20
"""Bytes of weights that fit into the one file of an ONNX graph, which protobuf limits to 2 GiB."""


def write_onnx(model: Traceable, facts: Facts, file: Path) -> None:
    """An ONNX graph ``images → outputs`` with dynamic batch; the metadata hold the facts under ``vitrail``.

    Raises:
        VitrailError: onnxscript is missing, the model is too large or cannot be traced.
    """
    need("onnxscript", "export", "an ONNX graph")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size > LIMIT:
        raise VitrailError(f"the weights are {size / 2**30:.1f} GiB; an ONNX graph in one file holds up to 2 GiB")
    program = trace(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx = torch.onnx.export(
            program,
            (pictures_for(model.model, 2),),
            dynamo=True,
            input_names=["images"],
            output_names=list(facts.outputs),
            opset_version=OPSET,
            verbose=False,
        )
    if onnx is None:
        raise VitrailError(f"torch gave no ONNX graph of this {facts.family}")
    onnx.model.metadata_props["vitrail"] = facts.to_json()
    onnx.save(file, external_data=False)


def write_openvino(model: Traceable, facts: Facts, file: Path) -> None:
    """The same graph as OpenVINO's ``.xml`` with a ``.bin`` beside it, weights in float32.

    Raises:
        VitrailError: openvino or onnxscript is missing, the model is too large or cannot be traced.
    """
    openvino = need("openvino", "openvino", "an OpenVINO graph")
    with TemporaryDirectory() as folder:
        between = Path(folder) / "graph.onnx"
        write_onnx(model, facts, between)
        save_openvino(openvino.Core().read_model(between), facts, file)


def save_openvino(graph: Any, facts: Facts, file: Path) -> None:
    """An ``openvino.Model`` and its facts into ``.xml`` and ``.bin``."""
    openvino = need("openvino", "openvino", "an OpenVINO graph")
    graph.set_rt_info(facts.to_json(), ["vitrail"])
    openvino.save_model(graph, file, compress_to_fp16=False)


FORMATS: dict[GraphFormat, tuple[str, Callable[[Traceable, Facts, Path], None]]] = {
    "onnx": (".onnx", write_onnx),
    "openvino": (".xml", write_openvino),
}
"""The ending of a format's file, and what writes it."""


def write_graph(model: Traceable, facts: Facts, form: GraphFormat, file: Path, accept: Callable[[Path], None]) -> None:
    """A graph's file, there only once it is whole and ``accept`` did not raise.

    Args:
        model: what is written.
        facts: of it.
        form: of the file.
        file: ends as the format's files do.
        accept: called with the finished file under another name; raises when it must not be kept.

    Raises:
        VitrailError: another ending, a folder that cannot be written, or what ``accept`` raises.
    """
    ending, write = FORMATS[form]
    if file.suffix != ending:
        raise VitrailError(f"{file}: a graph for {form} ends in {ending}")
    with scratch_beside(file) as folder:
        write(model, facts, folder / file.name)
        accept(folder / file.name)
        # The .bin lands before the .xml that reads it.
        for part in sorted(folder.iterdir(), key=lambda part: part.suffix != ".bin"):
            settle(part, file.with_name(part.name))


@contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """A folder on the same disk as ``target``, gone at the end.

    Raises:
        VitrailError: it cannot be made or written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise VitrailError(f"{target}: cannot be written: {error}") from error


def settle(part: Path, target: Path) -> None:
    """Give a finished file its name once it is safe on the disk."""
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    part.replace(target)
