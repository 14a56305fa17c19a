"""Pictures through a model, batch by batch: the one loop behind evaluate, predict, embed and probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from vitrail.contracts import Batch, VitrailError
from vitrail.data import BrokenPicture, Loader, Preprocess, Source, SubsetSource, TrainTransform, printable
from vitrail.data.loader import NothingLeft
from vitrail.data.reading import OnError
from vitrail.engine import Precision, World, choose_precision, resolve_device
from vitrail.jobs.progress import say, track
from vitrail.jobs.settings import Settings
from vitrail.speed.prepare import Prepared, prepare

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Hardware:
    """Where and in which number format a model runs.

    Attributes:
        device: where.
        precision: the number format.
        prepared: the model that was made ready for it; None for one that runs as it is.
    """

    device: torch.device
    precision: Precision
    prepared: Prepared[nn.Module] | None = None

    @classmethod
    def of(cls, settings: Settings, world: World | None = None) -> Hardware:
        """The device and precision that were asked for, on this process of ``world``."""
        device = resolve_device(settings.device, world or World())
        return cls(device, choose_precision(settings.precision, device))

    @property
    def form(self) -> str:
        """What results depend on besides the model: for fingerprints."""
        return self.precision.name if self.prepared is None else self.prepared.form

    def rows(self, call: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """One row for each picture, in the precision and from as many at once as is quickest; without gradients.

        Args:
            call: ``(B, C, H, W)`` normalised pictures to one row each.
            images: such pictures, on the device.
        """
        if self.prepared is None:
            with self.precision.autocast(self.device):
                return call(images)
        with self.prepared.context():
            return self.prepared.rows(call, images)


def make_ready(model: M, hardware: Hardware, batch_size: int) -> tuple[M, Hardware]:
    """A model as it is quickest to ask, in evaluation mode, with the hardware that knows of it; says what was chosen.

    Args:
        model: moved to the hardware's device; not changed otherwise, and no more to be trained or looked into than
            its twin is.
        hardware: where it is to run.
        batch_size: the most pictures at once.
    """
    prepared = prepare(model.to(hardware.device), hardware.device, hardware.precision.name, batch_size)
    say(prepared.choice)
    return prepared.model, replace(hardware, prepared=prepared)


@dataclass(frozen=True)
class Outputs:
    """What a model gave for every picture of a source.

    Attributes:
        values: one row per picture, float32 on the CPU.
        labels: ``(N,)``, -1 where there is none.
        indices: ``(N,)``, places in the source.
        names: the pictures.
        skipped: broken pictures that were left out, with the reason.
    """

    values: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    indices: Int[Tensor, " n"]
    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def plain_loader(source: Source, preprocess: Preprocess, settings: Settings, device: torch.device) -> Loader:
    """Every picture once, in order, as the model expects it."""
    return Loader(
        source,
        TrainTransform(preprocess, None),
        batch_size=min(settings.batch_size, max(1, len(source))),
        seed=settings.seed,
        shuffle=False,
        drop_last=False,
        workers=settings.inference_workers(device) if len(source) > settings.batch_size else 0,
        on_error=settings.on_error,
        # Each picture is read once: keeping it would cost as much as decoding it.
        cache=False,
    )


def run_batches(
    call: Callable[[Tensor], Tensor], loader: Loader, hardware: Hardware, title: str, total: int
) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch with what ``call`` gives for its pictures, in float32 on the CPU, with progress shown."""
    with track(title, total) as advance, torch.inference_mode():
        for batch in loader.epoch(0):
            values = hardware.rows(call, batch.to(hardware.device).images)
            advance(len(batch))
            yield batch, values.float().cpu()


def run_source(
    call: Callable[[Tensor], Tensor],
    source: Source,
    preprocess: Preprocess,
    settings: Settings,
    hardware: Hardware,
    title: str,
) -> Outputs:
    """What ``call`` gives for every picture of a source.

    Args:
        call: ``(B, C, H, W)`` normalised pictures to one row each.
        source: pictures, labelled or not.
        preprocess: the model's.
        settings: batch size, workers, what to do about broken pictures.
        hardware: where it runs.
        title: of the progress display.

    Raises:
        VitrailError: there are no pictures.
        NothingLeft: every one of them was broken.
    """
    if not len(source):
        raise VitrailError("there are no pictures to work on")
    loader = plain_loader(source, preprocess, settings, hardware.device)
    gathering = Gathering()
    for batch, values in run_batches(call, loader, hardware, title, len(source)):
        gathering.add(batch, values)
    return gathering.outputs(loader)


def part_of_job(run: Callable[[], Outputs]) -> Outputs | None:
    """What ``run`` gives for one part of a job's pictures, with a line for each that was left out.

    Whether a job has anything left to work on is not for one part to say: for one of nothing but broken pictures it is
    None.
    """
    try:
        outputs = run()
    except NothingLeft as error:
        say_skipped(error.skipped)
        return None
    say_skipped(outputs.skipped)
    return outputs


@dataclass(frozen=True)
class Caller:
    """Pictures to one row each, whichever library computes them.

    Attributes:
        call: ``(B, C, H, W)`` normalised pictures to one row each.
        preprocess: from a picture to what ``call`` takes.
        hardware: where ``call`` runs.
        key: what the rows depend on besides preprocessing and pictures.
    """

    call: Callable[[Tensor], Tensor]
    preprocess: Preprocess
    hardware: Hardware
    key: Sequence[object]

    def part(self, source: Source, numbers: Sequence[int], settings: Settings, title: str) -> Outputs | None:
        """The rows of some pictures of a source, as :func:`part_of_job` gives them."""
        chosen = SubsetSource(source, numbers)
        return part_of_job(lambda: run_source(self.call, chosen, self.preprocess, settings, self.hardware, title))


def readable(source: Source, indices: Iterable[int], on_error: OnError) -> Iterator[Image.Image]:
    """The pictures at some places of a source.

    Args:
        source: the pictures.
        indices: which.
        on_error: whether a broken one is an error, or is left out with a line that says so.
    """
    for index in indices:
        try:
            picture = source.picture(index)
        except BrokenPicture as error:
            if on_error == "raise":
                raise
            say(f"skipped {error}")
            continue
        yield picture


def say_skipped(skipped: Iterable[tuple[str, str]]) -> None:
    """A line for each picture that was left out, with the reason."""
    for name, reason in skipped:
        say(f"skipped {printable(name)}: {reason}")


def counted(done: int, given: int) -> str:
    """How many pictures a job ends with, and how many of those that it was given were left out."""
    return f"{done} pictures" + (f" ({given - done} broken, left out)" if done < given else "")


class Gathering:
    """What a model gave, collected batch by batch; the pictures are let go."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._indices: list[Tensor] = []
        self._names: list[str] = []

    def add(self, batch: Batch, values: Float[Tensor, "b d"]) -> None:
        """A batch and its rows."""
        self.values.append(values)
        self._labels.append(torch.full((len(batch),), -1) if batch.labels is None else batch.labels)
        self._indices.append(batch.indices)
        self._names.extend(batch.names)

    def outputs(self, loader: Loader) -> Outputs:
        """All of it as one value; ``loader`` knows what was left out. At least one batch must have been added."""
        return Outputs(
            values=torch.cat(self.values),
            labels=torch.cat(self._labels),
            indices=torch.cat(self._indices),
            names=tuple(self._names),
            skipped=tuple(loader.skipped),
        )


def classifier(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Class probabilities of a model that gives logits."""
    return lambda images: model(images).float().softmax(dim=-1)
