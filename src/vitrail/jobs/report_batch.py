"""The first training batch of a run, for its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from vitrail.contracts import Batch
from vitrail.data import Loader, Preprocess
from vitrail.jobs.report import FirstBatch

SHOWN = 16


def first_batch(loader: Loader, captions: Callable[[Batch], Sequence[str]], preprocess: Preprocess) -> FirstBatch:
    """Its first pictures as the model saw them; the loader's workers end.

    Args:
        loader: of the training batches.
        captions: one for each picture of a batch.
        preprocess: of the model.
    """
    batch = next(iter(loader.epoch(0))).to(torch.device("cpu"))
    loader.close()
    images = batch.images[:SHOWN]
    if images.ndim == 5:  # Of a clip the frame in the middle.
        images = images[:, :, images.shape[2] // 2]
    return FirstBatch(images, captions(batch)[:SHOWN], preprocess.mean, preprocess.std)
