"""Five folds over all pictures: what a study uses to tell apart differences that one held-out part leaves to chance."""

from __future__ import annotations

import torch
from torch import Tensor

from vitrail.metrics import fit_linear_probe

FOLDS = 5


def linear_right(train: Tensor, train_labels: Tensor, val: Tensor, val_labels: Tensor) -> Tensor:
    """Which pictures of ``val``, ``(N,)``, a linear probe on ``train`` names right."""
    fitted = fit_linear_probe(train, train_labels, int(train_labels.max()) + 1)
    return fitted.probabilities(val).argmax(dim=1) == val_labels


def right_in_folds(values: Tensor, labels: Tensor) -> Tensor:
    """Which pictures, ``(N,)``, are named right by linear probes on the other folds."""
    right = torch.zeros(len(values), dtype=torch.bool)
    for fold in range(FOLDS):
        held = torch.arange(len(values)) % FOLDS == fold
        right[held] = linear_right(values[~held], labels[~held], values[held], labels[held])
    return right


def lost_and_won(before: Tensor, after: Tensor) -> tuple[int, int]:
    """Pictures that were right and are not any more, and the other way round."""
    return int((before & ~after).sum()), int((~before & after).sum())
