"""What is measured of features while they are learnt: agreement with classes, and whether they collapse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.data import Loader, Source, Splits, sample_source
from vitrail.data.reading import PictureTransform
from vitrail.engine import World, resolve_device
from vitrail.jobs.embed import FeaturePool, FeatureVector
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.progress import say_once
from vitrail.metrics import effective_rank, feature_deviation, knn_probabilities
from vitrail.models import Backbone

LEAST_RANK, LEAST_DEVIATION = 1.2, 0.01
"""Below these the features of all pictures lie on a line, or in a point."""


@dataclass(frozen=True)
class Vectors:
    """Features of pictures in the order of the processes that computed them; labels are -1 where there are none."""

    values: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]

    @classmethod
    def joined(cls, parts: Sequence[Vectors | None]) -> Vectors:
        """What the processes found, one after the other; None from one that found nothing.

        Raises:
            VitrailError: none of them found anything.
        """
        present = [part for part in parts if part is not None]
        if not present:  # One process alone has been told by its loader.
            raise VitrailError("every picture to measure with was broken: the warnings above name them")
        return cls(torch.cat([part.values for part in present]), torch.cat([part.labels for part in present]))

    def labelled(self) -> Vectors:
        """Those whose class is known."""
        known = self.labels >= 0
        return Vectors(self.values[known], self.labels[known])


class FeatureWatch:
    """What the engine calls now and then: nearest neighbours, effective rank, deviation.

    Held-out pictures are compared with training ones, a fixed choice of each; the processes share the work.

    Args:
        splits: the data.
        plain: makes the model's input of a sample.
        encoder: the part of what the method keeps that is measured.
        pool: what of the tokens is the feature.
        config: how many pictures, neighbours, workers.
        world: the processes that train together.
    """

    def __init__(
        self,
        splits: Splits,
        plain: PictureTransform,
        encoder: Callable[[nn.Module], nn.Module],
        pool: FeaturePool,
        config: PretrainConfig,
        world: World,
    ) -> None:
        self._classes = splits.train.classes
        self._plain, self._encoder = plain, encoder
        self._pool: FeaturePool = pool
        self._config, self._world = config, world
        self._device = resolve_device(config.device, world)
        self._held_out = self._loader(splits.val)
        self._known = self._loader(splits.train) if self._classes else None

    def __call__(self, model: nn.Module) -> Mapping[str, float]:
        """``knn`` (share of right answers, where there are classes), ``feature_rank``, ``feature_deviation``."""
        model = self._encoder(model)
        if not isinstance(model, Backbone):  # A tokenizer, say, has no features that stand for a picture.
            return {}
        vector = FeatureVector(model, self._pool)
        queries = self._vectors(vector, self._held_out)
        found: dict[str, float] = {}
        if self._known is not None:
            found["knn"] = self._agreement(self._vectors(vector, self._known), queries)
        found["feature_rank"] = effective_rank(queries.values)
        found["feature_deviation"] = feature_deviation(queries.values)
        if (alarm := collapse(found)) is not None:
            say_once(self._world, f"warning: {alarm}")
        return found

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """The broken pictures that this process left out so far, with the reason."""
        return [one for loader in (self._held_out, self._known) if loader is not None for one in loader.skipped]

    def _agreement(self, bank: Vectors, queries: Vectors) -> float:
        bank, queries = bank.labelled(), queries.labelled()
        k = min(self._config.k, len(bank.values))
        votes = knn_probabilities(bank.values, bank.labels, queries.values, len(self._classes), k)
        return float((votes.argmax(dim=1) == queries.labels).double().mean())

    def _loader(self, source: Source) -> Loader:
        config = self._config
        chosen = sample_source(source, max(config.measured, len(source.classes)), config.split_seed, "measured")
        return config.measuring_loader(chosen, self._plain, self._world)

    def _vectors(self, vector: FeatureVector, loader: Loader) -> Vectors:
        rows, labels = [], []
        for batch in loader.epoch(0):
            rows.append(vector(batch.to(self._device).images).float().cpu())
            labels.append(torch.full((len(batch),), -1) if batch.labels is None else batch.labels)
        return Vectors.joined(self._world.gather(Vectors(torch.cat(rows), torch.cat(labels)) if rows else None))


def collapse(found: Mapping[str, float]) -> str | None:
    """What to tell of features that have collapsed; None while they have not.

    Args:
        found: ``feature_rank`` and ``feature_deviation``.
    """
    rank, deviation = found["feature_rank"], found["feature_deviation"]
    if rank >= LEAST_RANK and deviation >= LEAST_DEVIATION:
        return None
    return (
        f"the features collapse (effective rank {rank:.2f}, deviation {deviation:.4f}): all pictures look alike to the "
        "model; a lower learning rate, a longer warm-up or other numbers of the method may help"
    )
