"""Which library computes a model: torch, or a graph in OpenVINO or onnxruntime. Tables are the same with each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.engine import Precision
from vitrail.graphs import (
    Facts,
    OnnxRunner,
    OpenVINORunner,
    Output,
    Runner,
    Traceable,
    cached_graph,
    is_quantised,
    outputs_of,
    read_quantised,
    traceable,
)
from vitrail.heads.pool import PoolName
from vitrail.jobs.inference import Hardware
from vitrail.jobs.merging import MergingSettings
from vitrail.jobs.models import open_model, weights_digest
from vitrail.jobs.progress import say
from vitrail.jobs.settings import Settings
from vitrail.weights import Artefact

Backend = Literal["torch", "openvino", "onnxruntime"]


@dataclass(frozen=True, kw_only=True)
class BackendSettings(MergingSettings):
    """Options of the verbs that any library can compute."""

    backend: Backend = "torch"
    """What computes: torch, or a graph of the model in openvino or onnxruntime (CPU only; made once, then kept)."""

    def __post_init__(self) -> None:
        """Refuse what graphs cannot do."""
        super().__post_init__()
        if self.merge and self.backend != "torch":
            raise VitrailError(f"graphs merge no patches: leave --merge {self.merge} out, or --backend {self.backend}")


POOLED: Mapping[PoolName, tuple[Output, ...]] = {
    "class": ("class_token",),
    "mean": ("patch_mean",),
    "class_mean": ("class_token", "patch_mean"),
}
"""The outputs of a graph that make up a feature vector."""


_HINTS: Mapping[tuple[Output, ...], str] = {
    ("patch_mean",): ": pool the mean of the patches (--pool mean)",
    ("logits",): ": vitrail quantise --outputs class_token patch_mean makes one for embed",
}
"""By what a graph gives: what to do about the rest."""


@dataclass(frozen=True)
class Graph:
    """A model as a loaded graph, with all that a table needs to know of it.

    Attributes:
        file: it was read from.
        facts: classes, preprocessing, outputs.
        runner: computes it.
        key: what its answers depend on, for the fingerprints of unfinished work.
    """

    file: Path
    facts: Facts
    runner: Runner
    key: tuple[object, ...]

    @property
    def hardware(self) -> Hardware:
        """The CPU, without autocast: the graph has its own precision."""
        return Hardware(torch.device("cpu"), Precision("fp32", self.runner.choice))

    @property
    def preprocess(self) -> Preprocess:
        """From a picture to the graph's input."""
        return self.facts.preprocess

    @property
    def bands(self) -> int:
        """Channels in which pictures are read."""
        return self.preprocess.channels

    def widths(self) -> list[tuple[Output, int]]:
        """The outputs with the length of each."""
        picture = torch.zeros(1, self.preprocess.bands, *self.preprocess.size)
        values = self.runner(picture, self.facts.outputs)
        return [(name, one.shape[1]) for name, one in zip(self.facts.outputs, values, strict=True)]

    def giving(self, *names: Output) -> Callable[[Tensor], Tensor]:
        """A call that answers with these outputs, side by side.

        Raises:
            VitrailError: the graph lacks one.
        """
        absent = [name for name in names if name not in self.facts.outputs]
        if absent:
            given = ", ".join(self.facts.outputs)
            raise VitrailError(
                f"the graph of this {self.facts.family} gives no {' and no '.join(absent)} but {given}"
                + _HINTS.get(self.facts.outputs, "")
            )
        return lambda images: torch.cat(self.runner(images, names), dim=1)


def open_graph(config: Settings, backend: Backend, wanted: Sequence[Output]) -> Graph:
    """The model that a config names, as a graph: an 8-bit folder's own, or the cached one of an artefact.

    Args:
        config: names the model, its size, the precision and the batch.
        backend: "openvino" or "onnxruntime".
        wanted: what it is to give; an 8-bit graph is what it is.

    Raises:
        VitrailError: a package that is missing, a model that makes no graph, options that do not fit.
    """
    require_cpu(config)
    if not is_quantised(config.model):
        artefact = open_model(config.model, config.model_overrides(), online=config.online)
        return graph_of(artefact, config, backend, wanted)
    if backend != "openvino":
        raise VitrailError(f"{config.model} holds an 8-bit graph for OpenVINO: use --backend openvino")
    if config.model_overrides():
        raise VitrailError(f"{config.model} holds a finished graph: its sizes cannot be changed; quantise it again")
    stored = read_quantised(config.model)
    runner = OpenVINORunner(stored.graph, config.precision, config.batch_size)
    say(f"{config.model}: 8-bit graph in {runner.choice}")
    return Graph(stored.graph, stored.facts, runner, (stored.digest, backend, runner.precision))


def graph_of(artefact: Artefact, config: Settings, backend: Backend, wanted: Sequence[Output] = ()) -> Graph:
    """A model as a graph, made once and kept in the user's cache.

    Args:
        artefact: the model.
        config: the precision and the batch.
        backend: "openvino" or "onnxruntime".
        wanted: what it is to give, as far as it can; all that it can when empty.

    Raises:
        VitrailError: as :func:`open_graph`.
    """
    require_cpu(config)
    file, facts, digest = make_graph(artefact, backend, wanted)
    runner = load_runner(file, config, backend)
    say(f"{config.model}: a graph in {runner.choice}")
    return Graph(file, facts, runner, (digest, backend, runner.precision))


def make_graph(artefact: Artefact, backend: Backend, wanted: Sequence[Output] = ()) -> tuple[Path, Facts, str]:
    """The ONNX file of a model in the user's cache, its facts, and the digest of the weights.

    Args:
        artefact: any whose model makes a graph.
        backend: the library that checks a new one against torch.
        wanted: as in :func:`graph_of`.

    Raises:
        VitrailError: it makes none, a package is missing, or the cache cannot be written.
    """
    model = traceable(artefact.model.cpu().eval())
    there = outputs_of(model)
    chosen: tuple[Output, ...] = tuple(name for name in there if name in wanted)
    outputs = chosen or there
    facts = Facts(type(model).__name__, outputs, artefact.classes, artefact.preprocess)
    digest = weights_digest(artefact.model)
    return cached_graph(Traceable(model, outputs).eval(), facts, digest, exact_runner(backend)), facts, digest


def load_runner(file: Path, config: Settings, backend: Backend) -> Runner:
    """A graph in the library and the precision that were asked for."""
    if backend == "onnxruntime":
        return OnnxRunner(file, config.precision)
    return OpenVINORunner(file, config.precision, config.batch_size)


def exact_runner(backend: Backend) -> Callable[[Path], Runner]:
    """Loads a graph in float32, to be compared with torch."""
    return OnnxRunner if backend == "onnxruntime" else lambda file: OpenVINORunner(file, "fp32")


def require_cpu(config: Settings) -> None:
    """Refuse a device that graphs do not run on.

    Raises:
        VitrailError: naming it.
    """
    if config.device not in ("auto", "cpu"):
        raise VitrailError(f"graphs run on the CPU: leave --device {config.device} out, or --backend torch")
