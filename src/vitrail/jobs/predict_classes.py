"""What a classifier says of pictures: the table, and on request the pictures with the answer drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data import FileSource, Preprocess, SubsetSource, list_pictures, read_picture
from vitrail.explanations.bars import label_bars
from vitrail.explanations.figures import save
from vitrail.jobs.backend import Graph
from vitrail.jobs.bulk import fingerprint, run_in_parts
from vitrail.jobs.inference import Hardware, classifier, counted, part_of_job, run_source
from vitrail.jobs.models import require_classes, require_named, weights_digest
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.progress import say
from vitrail.jobs.settings import default_out
from vitrail.jobs.tables import Row, Table, check_table_name, paths_of, picture_name
from vitrail.weights import Artefact


@dataclass(frozen=True)
class Answers:
    """How pictures get their classes.

    Attributes:
        call: ``(B, C, H, W)`` normalised pictures to a probability for each class.
        classes: their names, in that order.
        preprocess: from a picture to what ``call`` takes.
        hardware: where ``call`` runs.
        key: what the answers depend on besides preprocessing and pictures.
    """

    call: Callable[[Tensor], Tensor]
    classes: Sequence[str]
    preprocess: Preprocess
    hardware: Hardware
    key: Sequence[object]

    @property
    def bands(self) -> int:
        """Channels in which pictures are read."""
        return 1 if self.preprocess.bands == 1 else 3


def predict_classes(config: PredictConfig, artefact: Artefact, hardware: Hardware) -> Table:
    """Predictions of every picture, in order: name, label, confidence, and the ``top`` classes with theirs."""
    require_classes(artefact, config.model)
    key = (weights_digest(artefact.model), hardware.form)
    call = classifier(artefact.model)
    return write_answers(config, Answers(call, artefact.classes, artefact.preprocess, hardware, key))


def predict_classes_by_graph(config: PredictConfig, graph: Graph) -> Table:
    """The same table, computed by another library.

    Raises:
        VitrailError: the graph has no classes.
    """
    require_named(graph.facts.classes, config.model)
    call = classifier(graph.giving("logits"))
    return write_answers(config, Answers(call, graph.facts.classes, graph.preprocess, graph.hardware, graph.key))


def write_answers(config: PredictConfig, answers: Answers) -> Table:
    """The table of every picture's most probable classes; pictures with the answer drawn where ``config.draw`` says."""
    if config.top < 1:
        raise VitrailError(f"top must be at least 1, not {config.top}")
    out = config.out or default_out("predict", config.source, config.model) / "predictions.csv"
    check_table_name(out)
    source = FileSource(list_pictures(config.source), answers.bands, config.source)
    top = min(config.top, len(answers.classes))

    def work(part: range) -> list[Row] | None:
        chosen = SubsetSource(source, list(part))
        outputs = part_of_job(
            lambda: run_source(answers.call, chosen, answers.preprocess, config, answers.hardware, "predict")
        )
        if outputs is None:
            return None
        confidences, numbers = outputs.values.topk(top, dim=1)
        return [
            {
                "name": picture_name(name),
                "label": answers.classes[row[0]],
                "confidence": round(sure[0], 6),
                "top_labels": [answers.classes[number] for number in row],
                "top_confidences": [round(confidence, 6) for confidence in sure],
            }
            for name, row, sure in zip(outputs.names, numbers.tolist(), confidences.tolist(), strict=True)
        ]

    key = fingerprint(answers.preprocess, config.top, *answers.key)
    names = [source.name(i) for i in range(len(source))]
    rows = run_in_parts(names, key, work, out)
    if config.draw is not None:
        draw_answers(paths_of(rows, names), config.draw, answers.bands)
    say(f"{counted(len(rows), len(names))} → {out}")
    return rows


def draw_answers(rows: Iterable[tuple[Row, str]], folder: Path, bands: int = 3) -> list[Path]:
    """Every picture beside its most probable classes, as ``folder/<stem>.png``, numbered where stems repeat.

    Args:
        rows: each with the path of its picture.
        folder: made where it does not exist.
        bands: 1 or 3, as the pictures are read.
    """
    seen: dict[str, int] = {}
    drawn = []
    for row, path in rows:
        stem = Path(path).stem
        count = seen[stem] = seen.get(stem, 0) + 1
        figure = label_bars(read_picture(path, bands), row["top_labels"], row["top_confidences"])
        drawn.append(save(figure, folder / f"{stem if count == 1 else f'{stem}-{count}'}.png"))
    return drawn
