"""The one place where a verb's ``--merge`` takes effect."""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.contracts import VitrailError
from vitrail.jobs.progress import say
from vitrail.jobs.settings import Settings
from vitrail.models import MaskedAutoencoder
from vitrail.speed import merged
from vitrail.weights import Artefact


@dataclass(frozen=True, kw_only=True)
class MergingSettings(Settings):
    """Options of the verbs that only run a model."""

    merge: int = 0
    """Patches that every block merges into others like them: faster, and a little less exact. 0 merges none."""

    def __post_init__(self) -> None:
        """Refuse numbers that no job can work with."""
        super().__post_init__()
        if self.merge < 0:
            raise VitrailError(f"merge must be at least 0, not {self.merge}")


def with_merging(artefact: Artefact, config: MergingSettings) -> Artefact:
    """The same artefact with a model that merges as many patches as the options say, and a line that tells so.

    Raises:
        VitrailError: the model is no plain transformer.
    """
    if not config.merge:
        return artefact
    # Of a masked autoencoder only the encoder is run.
    plain = artefact.model.encoder if isinstance(artefact.model, MaskedAutoencoder) else artefact.model
    model = merged(plain, config.merge)
    say(f"token merging: every block merges {config.merge} patches; answers are near those without, not equal to them")
    return artefact.with_model(model)
