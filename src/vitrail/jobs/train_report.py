"""A finished training as the values that its report shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vitrail.contracts import Batch
from vitrail.data import Loader, Splits
from vitrail.engine import METRICS_TABLE
from vitrail.explanations import attention_maps, picture_of
from vitrail.explanations.record import attention_layers
from vitrail.jobs.comparison import Comparison
from vitrail.jobs.inference import Outputs
from vitrail.jobs.report import Headline, Mistake, RunSummary, write_report
from vitrail.jobs.report_batch import first_batch
from vitrail.jobs.train_config import TrainConfig
from vitrail.metrics import ClassificationScores
from vitrail.models import Backbone
from vitrail.weights import Artefact

MISTAKES = 12


def report_run(
    config: TrainConfig,
    out: Path,
    splits: Splits,
    artefact: Artefact,
    scores: ClassificationScores,
    outputs: Outputs,
    loader: Loader,
    facts: Mapping[str, Any],
) -> Path:
    """Write ``OUT/report.html``.

    Args:
        config: what was asked for.
        out: the run's folder, with ``metrics.csv``.
        splits: the data.
        artefact: the trained model.
        scores: on the held-out pictures.
        outputs: the probabilities behind the scores.
        loader: of the training batches.
        facts: command, environment, seconds, skipped pictures, as in ``metrics.json``.
    """
    classes = artefact.classes
    preprocess = artefact.preprocess
    summary = RunSummary(
        title=f"{config.model} on {config.data}",
        command=facts["command"],
        config=vars(config),
        environment=facts["environment"],
        classes=classes,
        headline=_headline(config, scores, facts),
        comparison=_comparison(config, scores),
        metrics=out / METRICS_TABLE,
        confusion=scores.confusion,
        per_class=scores.per_class,
        first_batch=first_batch(loader, lambda batch: _captions(batch, classes, config.smoothing), preprocess),
        mistakes=_mistakes(artefact, splits, outputs),
        warnings=[f"skipped {name}: {reason}" for name, reason in facts["skipped"]],
    )
    return write_report(summary, out)


def _headline(config: TrainConfig, scores: ClassificationScores, facts: Mapping[str, Any]) -> list[Headline]:
    held_out = f"{facts['pictures']['val']:,} held-out pictures"
    figures = [Headline("Accuracy", f"{100 * scores.accuracy:.2f} %", held_out)]
    if scores.auroc is not None:
        figures.append(Headline("AUROC", f"{scores.auroc:.4f}", "mean over the classes"))
    figures.append(Headline("Macro F1", f"{100 * scores.macro_f1:.2f} %", "mean over the classes"))
    figures.append(Headline.time(facts["seconds"], config.epochs, facts["pictures"]["train"]))
    return figures


def _comparison(config: TrainConfig, scores: ClassificationScores) -> list[Comparison]:
    """This run among the results that ``--compare`` names; nothing when it names none."""
    others = [Comparison.parse(text) for text in config.compare]
    ours = Comparison(config.model, 100 * scores.accuracy, "this run", ours=True)
    return sorted([ours, *others], key=lambda entry: -entry.value) if others else []


def _captions(batch: Batch, classes: tuple[str, ...], smoothing: float) -> list[str]:
    """The label of each picture, or its class probabilities; smoothing, which all classes share, is not shown."""
    labels = batch.labels
    if labels is None:
        return list(batch.names)
    if labels.ndim == 1:
        return [classes[int(label)] for label in labels]
    return [_mixture(row - smoothing / len(classes), classes) for row in labels]


def _mixture(row: Tensor, classes: tuple[str, ...]) -> str:
    shares = row.clamp_min(0) / row.clamp_min(0).sum().clamp_min(1e-9)
    parts = [(float(share), name) for share, name in zip(shares, classes, strict=True) if share > 0.005]
    if len(parts) == 1:
        return parts[0][1]
    return " + ".join(f"{share:.0%} {name}" for share, name in sorted(parts, reverse=True))


def _mistakes(artefact: Artefact, splits: Splits, outputs: Outputs) -> list[Mistake]:
    """The held-out pictures that the model got wrong with the greatest confidence, and what it looked at."""
    confidence, predicted = outputs.values.max(dim=1)
    wrong = (predicted != outputs.labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True)][:MISTAKES].tolist()
    if not worst:
        return []
    preprocess = artefact.preprocess
    images = preprocess.batch([splits.val.picture(int(outputs.indices[row])) for row in worst])
    maps = _looked_at(artefact.backbone, images)
    return [
        Mistake(
            picture=picture_of(image, preprocess.mean, preprocess.std),
            attention=attention,
            true=artefact.classes[int(outputs.labels[row])],
            predicted=artefact.classes[int(predicted[row])],
            confidence=float(confidence[row]),
            name=outputs.names[row],
        )
        for row, image, attention in zip(worst, images, maps, strict=True)
    ]


def _looked_at(model: Backbone, images: Tensor) -> list[Tensor] | list[None]:
    """A map for every picture; none for a model without attention."""
    if not attention_layers(model):
        return [None] * len(images)
    return list(attention_maps(model, images.to(next(model.parameters()).device)))
