"""Learning from a part of the labels: the same seeded choice for probes and for training."""

from __future__ import annotations

from vitrail.contracts import VitrailError
from vitrail.data import Source, Splits, sample_source, shots_source


def with_few_labels(splits: Splits, limit: int | None, shots: int | None, seed: int) -> Splits:
    """The same held-out pictures beside a part of the training ones; all of them where neither number is given.

    Args:
        splits: the data.
        limit: training pictures in all, every class with its share.
        shots: training pictures of each class.
        seed: of the choice.

    Raises:
        VitrailError: both numbers, or one that leaves a class without a picture.
    """
    if limit is not None and shots is not None:
        raise VitrailError(f"train_limit={limit} and shots={shots} contradict each other: give one of them")
    if shots is not None:
        return Splits(shots_source(splits.train, shots, seed), splits.val)
    train: Source = splits.train if limit is None else sample_source(splits.train, limit, seed)
    return Splits(train, splits.val)
