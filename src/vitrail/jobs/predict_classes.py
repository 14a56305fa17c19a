"""What a classifier says of pictures: the table, and on request the pictures with the answer drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from vitrail.contracts import VitrailError
from vitrail.data import FileSource, list_pictures, read_picture
from vitrail.explanations.bars import label_bars
from vitrail.explanations.figures import save
from vitrail.jobs.backend import Graph
from vitrail.jobs.bulk import fingerprint, run_in_parts
from vitrail.jobs.inference import Caller, Hardware, classifier, counted
from vitrail.jobs.models import require_classes, require_named, weights_digest
from vitrail.jobs.own_folder import own_folder
from vitrail.jobs.own_names import OwnNames
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.progress import say
from vitrail.jobs.tables import Row, Table, check_table_name, paths_of, picture_name
from vitrail.weights import Artefact


def predict_classes(config: PredictConfig, artefact: Artefact, hardware: Hardware) -> Table:
    """Predictions of every picture, in order: name, label, confidence, and the ``top`` classes with theirs."""
    require_classes(artefact, config.model)
    key = (weights_digest(artefact.model), hardware.form)
    caller = Caller(classifier(artefact.model), artefact.preprocess, hardware, key)
    return write_answers(config, caller, artefact.classes)


def predict_classes_by_graph(config: PredictConfig, graph: Graph) -> Table:
    """The same table, computed by another library.

    Raises:
        VitrailError: the graph has no classes.
    """
    require_named(graph.facts.classes, config.model)
    caller = Caller(classifier(graph.giving("logits")), graph.preprocess, graph.hardware, graph.key)
    return write_answers(config, caller, graph.facts.classes)


def write_answers(config: PredictConfig, caller: Caller, classes: Sequence[str]) -> Table:
    """The table of every picture's most probable classes; pictures with the answer drawn where ``config.draw`` says.

    Args:
        config: what is asked for.
        caller: gives a probability for each class.
        classes: their names, in that order.
    """
    if config.top < 1:
        raise VitrailError(f"top must be at least 1, not {config.top}")
    source = FileSource(list_pictures(config.source), caller.preprocess.channels, config.source)
    out = config.out or own_folder("predict", config, "source", "model") / "predictions.csv"
    check_table_name(out)
    top = min(config.top, len(classes))

    def work(part: range) -> list[Row] | None:
        outputs = caller.part(source, part, config, "predict")
        if outputs is None:
            return None
        confidences, numbers = outputs.values.topk(top, dim=1)
        return [
            {
                "name": picture_name(name),
                "label": classes[row[0]],
                "confidence": round(sure[0], 6),
                "top_labels": [classes[number] for number in row],
                "top_confidences": [round(confidence, 6) for confidence in sure],
            }
            for name, row, sure in zip(outputs.names, numbers.tolist(), confidences.tolist(), strict=True)
        ]

    key = fingerprint(caller.preprocess, config.top, *caller.key)
    names = [source.name(i) for i in range(len(source))]
    rows = run_in_parts(names, key, work, out)
    if config.draw is not None:
        draw_answers(paths_of(rows, names), config.draw, caller.preprocess.channels)
    say(f"{counted(len(rows), len(names))} → {out}")
    return rows


def draw_answers(rows: Iterable[tuple[Row, str]], folder: Path, bands: int = 3) -> list[Path]:
    """Every picture beside its most probable classes, as ``folder/<stem>.png``, numbered where stems repeat.

    Args:
        rows: each with the path of its picture.
        folder: made where it does not exist.
        bands: 1 or 3, as the pictures are read.
    """
    own_name = OwnNames()
    drawn = []
    for row, path in rows:
        figure = label_bars(read_picture(path, bands), row["top_labels"], row["top_confidences"])
        drawn.append(save(figure, folder / f"{own_name(Path(path).stem)}.png"))
    return drawn
