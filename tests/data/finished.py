"""Batches and samples as a model takes them."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from vitrail.contracts import Batch
from vitrail.data import Loader, Pixels, Sample

CPU = torch.device("cpu")


class FinishedLoader(Loader):
    """A loader whose batches have gone to the CPU, as the engine's have gone to its device."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return map(to_cpu, super().epoch(epoch, start))


def to_cpu(batch: Batch) -> Batch:
    return batch.to(CPU)


def finished(sample: Mapping[str, Sample]) -> dict[str, Tensor]:
    return {name: value.finished() if isinstance(value, Pixels) else value for name, value in sample.items()}
