"""Linear probe: logistic regression on frozen features, its regularisation chosen inside the training set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from vitrail.contracts import VitrailError

GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 1.0)
"""Inverse strengths of the L2 penalty that are tried, on standardised features."""

MOST_SEARCHED = 10_000
"""Pictures on which the penalty is chosen: all 18 fits of the search on 60,000 would take a quarter of an hour."""

MOST_SEEDS = 2**32
"""What scikit-learn takes."""

UNSEEN = 10.0
"""How far below every other bias that of a class without training pictures lies."""


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        pipeline: standardisation and logistic regression.
        strength: the inverse penalty that cross-validation chose.
        num_classes: length of a row of probabilities.
    """

    pipeline: Pipeline
    strength: float
    num_classes: int

    def probabilities(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Class probabilities; classes that training never saw get 0."""
        found = self.pipeline.predict_proba(features.float().numpy())
        full = np.zeros((len(found), self.num_classes), dtype=np.float32)
        full[:, self.pipeline.classes_] = found
        return torch.from_numpy(full)

    def layer(self) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
        """The same classifier as one linear layer on raw features: weight and bias of its logits.

        Standardisation is folded in. Classes that training never saw get a bias that rules them out.
        """
        scaler, regression = (step for _, step in self.pipeline.steps)
        weight, bias = regression.coef_ / scaler.scale_, regression.intercept_
        bias = bias - weight @ scaler.mean_
        if len(weight) == 1:  # two classes share one row: its sign says which
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        full_weight = np.zeros((self.num_classes, weight.shape[1]), dtype=np.float32)
        full_bias = np.full(self.num_classes, bias.min() - UNSEEN, dtype=np.float32)
        full_weight[regression.classes_], full_bias[regression.classes_] = weight, bias
        return torch.from_numpy(full_weight), torch.from_numpy(full_bias)


def fit_linear_probe(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], num_classes: int, seed: int = 0
) -> LinearProbe:
    """Logistic regression on standardised features; the penalty by stratified cross-validation on these pictures.

    Of more than :data:`MOST_SEARCHED` pictures, the penalty is chosen on a stratified draw of so many; the same penalty
    serves all of them, for it is a prior, which does not grow with the data. Classes of which there is one picture have
    no part in that choice.

    Args:
        features: one row per training picture.
        labels: class numbers.
        num_classes: of the data set, which may be more than occur here.
        seed: of the folds and of that draw.

    Raises:
        VitrailError: fewer than two classes occur.
    """
    if len(labels.unique()) < 2:
        raise VitrailError("a linear probe needs at least two classes among the training pictures")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    x, y = features.float().numpy(), labels.numpy()
    seed %= MOST_SEEDS
    strength = _best_strength(model, *_searched(x, y, seed), seed)
    return LinearProbe(model.set_params(logisticregression__C=strength).fit(x, y), strength, num_classes)


def _best_strength(model: Pipeline, x: np.ndarray, y: np.ndarray, seed: int) -> float:
    counts = np.bincount(y)
    if np.count_nonzero(counts) < 2:
        return GRID[2]
    search = GridSearchCV(
        model,
        {"logisticregression__C": list(GRID)},
        scoring="neg_log_loss",
        cv=StratifiedKFold(min(3, int(counts[counts > 0].min())), shuffle=True, random_state=seed),
        refit=False,
    ).fit(x, y)
    return search.best_params_["logisticregression__C"]


def _searched(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The pictures on which the penalty is chosen."""
    x, y = _of_repeated_classes(x, y)
    if len(y) <= MOST_SEARCHED:
        return x, y
    chosen, _ = train_test_split(np.arange(len(y)), train_size=MOST_SEARCHED, stratify=y, random_state=seed)
    return _of_repeated_classes(x[chosen], y[chosen])


def _of_repeated_classes(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the only picture of a class: no fold could both learn it and be asked for it."""
    kept = np.bincount(y)[y] > 1 if len(y) else np.zeros(0, dtype=bool)
    return x[kept], y[kept]
