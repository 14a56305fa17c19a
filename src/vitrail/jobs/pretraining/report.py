"""A finished pretraining as the values that its report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from vitrail.contracts import Batch
from vitrail.data import Loader, Preprocess
from vitrail.engine import METRICS_TABLE
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.pretraining.measure import collapse
from vitrail.jobs.pretraining.pictures import sheets
from vitrail.jobs.report import Headline, Moment, RunSummary, write_report
from vitrail.jobs.report.curves import NOT_CURVES, read_curves
from vitrail.jobs.report_batch import first_batch
from vitrail.jobs.run import PICTURES

MOMENTS = 8
"""Sheets that are shown at most: the first, the last, and some between."""


def report_pretraining(
    config: PretrainConfig,
    out: Path,
    classes: tuple[str, ...],
    preprocess: Preprocess,
    loader: Loader,
    facts: Mapping[str, Any],
) -> Path:
    """Write ``OUT/report.html``.

    Args:
        config: what was asked for.
        out: the run's folder, with ``metrics.csv`` and the pictures over time.
        classes: of the data, empty when it has none.
        preprocess: of the model.
        loader: of the training batches.
        facts: as in ``metrics.json``.
    """
    _, curves = read_curves(out / METRICS_TABLE)
    summary = RunSummary(
        title=f"{config.method} on {config.data}",
        command=facts["command"],
        config=vars(config),
        environment=facts["environment"],
        headline=_headline(config, facts),
        metrics=out / METRICS_TABLE,
        alone=[name for name in curves if _is_alone(name)],
        moments=_moments(sheets(out / PICTURES)),
        first_batch=first_batch(loader, lambda batch: _captions(batch, classes), preprocess),
        warnings=[*_alarms(out), *(f"skipped {name}: {reason}" for name, reason in facts["skipped"])],
    )
    return write_report(summary, out)


def _is_alone(name: str) -> bool:
    """Whether a column has a scale of its own: all but losses, scores and what is drawn by name."""
    if name in NOT_CURVES:
        return name == "grad_norm"
    return name.startswith("val_feature_") or not (name.startswith("val_") or "loss" in name)


def _headline(config: PretrainConfig, facts: Mapping[str, Any]) -> list[Headline]:
    figures = []
    if "knn" in facts:
        figures.append(Headline("Nearest neighbours", f"{100 * facts['knn']:.2f} %", "right, of held-out pictures"))
    if "feature_rank" in facts:
        figures.append(Headline("Effective rank", f"{facts['feature_rank']:.1f}", "of the features (RankMe)"))
    figures.append(Headline.time(facts["seconds"], config.epochs, facts["pictures"]["train"]))
    return figures


def _moments(files: Sequence[Path]) -> list[Moment]:
    count = min(MOMENTS, len(files))
    shown = [files[round(number * (len(files) - 1) / max(1, count - 1))] for number in range(count)]
    return [Moment(f"after epoch {int(file.stem.rpartition('_')[2])}", Image.open(file)) for file in shown]


def _captions(batch: Batch, classes: tuple[str, ...]) -> list[str]:
    if batch.labels is None:
        return [PurePath(name).name for name in batch.names]
    return [classes[label] if label >= 0 else "–" for label in batch.labels.tolist()]


def _alarms(out: Path) -> list[str]:
    """Where the features had collapsed, by the numbers that were written on the way."""
    axis, curves = read_curves(out / METRICS_TABLE)
    if not {"val_feature_rank", "val_feature_deviation"} <= curves.keys():
        return []
    (places, ranks), (_, deviations) = curves["val_feature_rank"], curves["val_feature_deviation"]
    found = []
    for place, rank, deviation in zip(places, ranks, deviations, strict=True):
        alarm = collapse({"feature_rank": float(rank), "feature_deviation": float(deviation)})
        if alarm is not None:
            found.append(f"{axis} {place:g}: {alarm}")
    return found
