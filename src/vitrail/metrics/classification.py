"""Scores of a classifier from its probabilities, by torchmetrics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_auroc,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from vitrail.contracts import VitrailError


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; ``support`` is how many pictures truly are of it."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of a classifier on a labelled set.

    Attributes:
        accuracy: share of pictures whose most probable class is theirs.
        top5_accuracy: share whose class is among the five most probable; None with five classes or fewer.
        balanced_accuracy: mean of the classes' recalls.
        macro_f1: mean of the classes' F1.
        auroc: one against the rest, mean over the classes that occur; None if only one class occurs.
        loss: mean cross-entropy, nats.
        confusion: ``(K, K)`` counts, rows true, columns predicted.
        per_class: one row per class.
    """

    accuracy: float
    top5_accuracy: float | None
    balanced_accuracy: float
    macro_f1: float
    auroc: float | None
    loss: float
    confusion: np.ndarray
    per_class: tuple[ClassScores, ...]

    def headline(self) -> dict[str, float]:
        """The single numbers by name, without those that are undefined."""
        values = {
            "accuracy": self.accuracy,
            "top5_accuracy": self.top5_accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "auroc": self.auroc,
            "loss": self.loss,
        }
        return {name: value for name, value in values.items() if value is not None}


def score_classifier(
    probabilities: Float[Tensor, "n k"], labels: Int[Tensor, " n"], classes: tuple[str, ...]
) -> ClassificationScores:
    """Every score of a classifier.

    Args:
        probabilities: rows that sum to one.
        labels: true class numbers.
        classes: names, as many as there are columns.

    Raises:
        VitrailError: nothing to score, or a label that has no class.
    """
    count = len(classes)
    if not len(labels):
        raise VitrailError("there is nothing to score: the data set has no labelled pictures")
    if probabilities.shape[1] != count or int(labels.min()) < 0 or int(labels.max()) >= count:
        raise VitrailError(
            f"labels {int(labels.min())}…{int(labels.max())} and {probabilities.shape[1]} outputs do not fit "
            f"{count} classes: the model was made for other classes than the data has"
        )
    per_class = {
        "precision": multiclass_precision(probabilities, labels, count, average="none"),
        "recall": multiclass_recall(probabilities, labels, count, average="none"),
        "f1": multiclass_f1_score(probabilities, labels, count, average="none"),
    }
    support = torch.bincount(labels, minlength=count)
    present = support > 0
    return ClassificationScores(
        accuracy=float(multiclass_accuracy(probabilities, labels, count, average="micro")),
        top5_accuracy=(
            float(multiclass_accuracy(probabilities, labels, count, average="micro", top_k=5)) if count > 5 else None
        ),
        balanced_accuracy=float(per_class["recall"][present].mean()),
        macro_f1=float(per_class["f1"][present].mean()),
        auroc=_auroc(probabilities, labels, present),
        loss=float(-probabilities.gather(1, labels[:, None]).clamp_min(1e-12).log().mean()),
        confusion=multiclass_confusion_matrix(probabilities, labels, count).numpy(),
        per_class=tuple(
            ClassScores(
                name,
                precision=float(per_class["precision"][i]),
                recall=float(per_class["recall"][i]),
                f1=float(per_class["f1"][i]),
                support=int(support[i]),
            )
            for i, name in enumerate(classes)
        ),
    )


def _auroc(probabilities: Tensor, labels: Tensor, present: Tensor) -> float | None:
    if int(present.sum()) < 2:
        return None
    areas = multiclass_auroc(probabilities, labels, probabilities.shape[1], average="none")
    return float(areas[present].mean())
