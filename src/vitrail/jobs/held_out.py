"""The held-out pictures of a training run: measured after its epochs, and remembered for its report."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from vitrail.contracts import VitrailError
from vitrail.data import Loader
from vitrail.engine import World
from vitrail.jobs.inference import Gathering, Outputs


class HeldOut:
    """What the engine calls after an epoch: accuracy and loss, shared out over the processes.

    Args:
        loader: this process's share of the pictures, each once.
        device: where the model runs.
        world: the processes that train together.

    Attributes:
        latest: class probabilities of every picture from the latest call; None before the first, and where each
            process has seen a part of the pictures only.
    """

    def __init__(self, loader: Loader, device: torch.device, world: World) -> None:
        self._loader, self._device, self._world = loader, device, world
        self.latest: Outputs | None = None

    def __call__(self, model: nn.Module) -> Mapping[str, float]:
        """Share of right answers, and mean cross-entropy in nats."""
        self.latest = None
        gathering = Gathering()
        right = total = loss = 0.0
        for batch in self._loader.epoch(0):
            if batch.labels is None:
                raise VitrailError(f"pictures without labels cannot measure a classifier: {', '.join(batch.names[:3])}")
            logits = model(batch.to(self._device).images).float().cpu()
            right += float((logits.argmax(dim=1) == batch.labels).sum())
            loss += float(F.cross_entropy(logits, batch.labels, reduction="sum"))
            total += len(batch)
            gathering.add(batch, logits.softmax(dim=1))
        if self._world.size == 1 and gathering.values:
            self.latest = gathering.outputs(self._loader)
        right, loss, total = self._world.sum([right, loss, total])
        return {"accuracy": right / max(1.0, total), "loss": loss / max(1.0, total)}
