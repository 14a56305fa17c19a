"""``vitrail export``: a model as a graph for other programs, checked to say the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from vitrail.contracts import VitrailError
from vitrail.graphs import (
    FORMATS,
    Difference,
    Facts,
    GraphFormat,
    OnnxRunner,
    OpenVINORunner,
    Output,
    Traceable,
    differences,
    require_equal,
    traceable,
    usual_outputs,
    write_graph,
)
from vitrail.jobs.models import open_model
from vitrail.jobs.progress import say
from vitrail.jobs.settings import Settings, default_out


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Settings):
    """A classifier, picture encoder or CLIP's picture side as a graph in float32, for any number of pictures at once.

    The file carries the class names and the preprocessing. It is run on noise and on photographs and kept only if its
    answers are the model's.
    """

    model: Positional[str]
    """Folder of a run or of an artefact, a checkpoint, or the name of published weights."""
    to: GraphFormat = "onnx"
    """onnx (.onnx), or openvino (.xml with a .bin beside it)."""
    outputs: tuple[Output, ...] = ()
    """Left out: logits of a classifier, class token and patch mean of an encoder, embedding of CLIP."""
    out: Path | None = None
    """The file. Left out: graph.onnx or graph.xml in a folder under runs/."""


def export(config: ExportConfig) -> list[Difference]:
    """Write the graph; the differences from the model, all within the tolerance."""
    if config.device not in ("auto", "cpu") or config.precision == "bf16":
        raise VitrailError("graphs are made in float32 on the CPU: leave --device and --precision out")
    out = config.out or default_out("export", config.model, config.to) / f"graph{FORMATS[config.to][0]}"
    artefact = open_model(config.model, config.model_overrides(), online=config.online)
    encoder = traceable(artefact.model.eval())
    model = Traceable(encoder, config.outputs or usual_outputs(encoder)).eval()
    facts = Facts(type(encoder).__name__, model.outputs, artefact.classes, artefact.preprocess)
    found: list[Difference] = []

    def accept(file: Path) -> None:
        runner = OnnxRunner(file) if config.to == "onnx" else OpenVINORunner(file, "fp32")
        found.extend(differences(model, runner, artefact.preprocess))
        require_equal(found, str(out))

    write_graph(model, facts, config.to, out, accept)
    for difference in found:
        say(f"largest difference of {difference}")
    say(f"{facts.family}, {', '.join(facts.outputs)} → {out}")
    return found
