"""The options of every verb that trains: length, rates, habits, and the engine settings that follow from them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from tyro.conf import Positional

from vitrail.building import Unavailable
from vitrail.contracts import Method, VitrailError
from vitrail.data import Loader, Mixing, Source
from vitrail.data.reading import PictureTransform
from vitrail.engine import USUAL, EngineConfig, World
from vitrail.jobs.options import named_values
from vitrail.jobs.settings import ACTION, Settings
from vitrail.nn.attention import attention_kernel
from vitrail.nn.encoder import recompute_blocks
from vitrail.speed.native import attention_to_learn_with, native

FREE = (
    *("workers", "cache", "device", "eval_every", "log_every", "checkpoint_every_s", "tensorboard"),
    *("report", "checkpoint_blocks", "accumulate"),
)
"""Options that may differ when a run goes on: they change no result, or (accumulate) no more than another number of
processes does, of which the engine warns."""
NATIVE = "attention by a native kernel"
"""The name of that way to compute, see :class:`vitrail.engine.Ways`."""


@dataclass(frozen=True)
class LearningAttention:
    """How attention is computed in training: as is quickest here when a run begins, and so to its end.

    Attributes:
        compile: whether the model is compiled. A compiler has ways of its own, into whose graphs a kernel from outside
            does not fit.
    """

    compile: bool

    def choose(self, device: torch.device, precision: str) -> tuple[str, str]:
        """The quickest way and a line about it."""
        if self.compile or precision != "bf16":
            return USUAL, ""
        kernel, said = attention_to_learn_with(device)
        return (USUAL, "") if kernel is None else (NATIVE, said)

    def lacking(self, name: str, device: torch.device) -> str | None:
        """Why that way cannot be had on this process; None where it can."""
        if name != NATIVE:
            return "this version of vitrail does not know it"
        if self.compile:
            return "the model is compiled"
        if device.type != "cpu":
            return f"it is for CPUs, not for {device}"
        try:
            native()
        except Unavailable as reason:
            return str(reason)
        return None

    def use(self, name: str) -> AbstractContextManager[object]:
        """The block in which attention is computed in that way."""
        assert name == NATIVE
        return attention_kernel(native().attention)


@dataclass(frozen=True, kw_only=True)
class Training(Settings):
    """What training with and without labels have in common. The same command on an unfinished --out continues it."""

    data: Positional[str]
    """A folder (train/ and val/, or one per class), a .csv, an IDX folder, or digits, elpv, fashion-mnist, hub:NAME."""
    model_options: tuple[str, ...] = ()
    """Further fields of the architecture, as depth=6 embed_dim=192."""
    crop: float | None = None
    """Share of the resized picture that evaluation keeps (1 keeps all). Left out: what the weights were made with."""
    val_fraction: float = 0.25
    """Share held out, by a seeded stratified split, when the data has no validation part."""
    split_seed: int = 0
    """Of that split, so that runs with other seeds are measured on the same pictures."""

    epochs: int = 10
    """Passes over the training pictures."""
    accumulate: int = 1
    """Parts of a batch that are computed one after the other, to save memory; batch_size stays that of all together.
    Gradients are the whole batch's, but mixing is drawn for each part, and batch norm and losses that compare pictures
    (clip, DINOv2's) see one part at a time."""
    lr: float = 2e-4
    """Highest learning rate, that of the head."""
    min_lr: float = 1e-5
    """Where the cosine ends."""
    warmup_lr: float = 1e-6
    """Where the warm-up starts."""
    warmup_fraction: float = 0.1
    """Share of the steps that warm up."""
    weight_decay: float = 0.05
    """AdamW's, on matrices only."""
    layer_decay: float = 0.75
    """Each layer nearer the input learns at this multiple of the next one's rate; 1 for none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's two averages."""
    clip_norm: float | None = 1.0
    """Largest gradient norm."""
    ema_decay: float | None = 0.9998
    """Of the moving average that is evaluated and kept; None for none."""
    drop_path: float = 0.1
    """Stochastic depth of the last block."""
    dropout: float = 0.0
    """On activations."""

    compile: bool = False
    """Compile the model with torch.compile."""
    checkpoint_blocks: bool = False
    """Compute every block twice instead of keeping what happens inside: the same result from less memory."""
    cache: bool = True
    """Keep decoded pictures in memory when they fit."""
    eval_every: int = 1
    """Epochs between evaluations; the last one is always evaluated."""
    checkpoint_every_s: float = 300.0
    """Seconds between checkpoints."""
    log_every: int = 50
    """Steps between the lines of metrics.csv."""
    tensorboard: bool = False
    """Write TensorBoard events too (extra: track)."""
    report: bool = True
    """Write report.html at the end."""
    fresh: bool = field(default=False, metadata=ACTION)
    """Start over: forget the checkpoints and results of an earlier run in --out."""

    def __post_init__(self) -> None:
        """Refuse what the engine would otherwise refuse after the model was made."""
        super().__post_init__()
        self.engine()

    def options(self) -> dict[str, Any]:
        """Every field of the architecture that this config sets."""
        named = named_values(self.model_options, "model option")
        return {**self.model_overrides(), "drop_path": self.drop_path, "dropout": self.dropout, **named}

    def checkpointed(self, method: Method) -> Method:
        """The method, its blocks computed twice where that is asked for.

        Raises:
            VitrailError: it has no blocks.
        """
        if self.checkpoint_blocks and not recompute_blocks(method):
            raise VitrailError(f"checkpoint_blocks: {self.model} has no stack of blocks; leave the option away")
        return method

    def ways(self) -> LearningAttention:
        """The ways that training has to compute, for :func:`vitrail.engine.fit`."""
        return LearningAttention(self.compile)

    def engine(self) -> EngineConfig:
        """Length, rates and habits of the run."""
        return EngineConfig(
            epochs=self.epochs,
            lr=self.lr,
            min_lr=min(self.min_lr, self.lr),
            warmup_lr=min(self.warmup_lr, self.lr),
            warmup_fraction=self.warmup_fraction,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
            betas=self.betas,
            clip_norm=self.clip_norm,
            ema_decay=self.ema_decay,
            precision=self.precision,
            accumulate=self.accumulate,
            compile=self.compile,
            seed=self.seed,
            device=self.device,
            checkpoint_every_s=self.checkpoint_every_s,
            eval_every=self.eval_every,
            log_every=self.log_every,
        )

    def micro_batch(self, world_size: int) -> int:
        """Pictures that one process computes at once.

        Raises:
            VitrailError: the batch does not divide.
        """
        parts = world_size * self.accumulate
        if self.accumulate < 1 or self.batch_size % parts:
            raise VitrailError(
                f"batch_size {self.batch_size} cannot be shared out evenly: it must be a multiple of "
                f"processes ({world_size}) x accumulate ({self.accumulate})"
            )
        return self.batch_size // parts

    def learning_loader(
        self,
        source: Source,
        transform: PictureTransform,
        world: World,
        mixing: Mixing | None = None,
        *,
        soft_labels: bool = False,
    ) -> Loader:
        """Shuffled batches of this process, to learn from.

        Args:
            source: the training pictures.
            transform: how one is looked at.
            world: the processes that train together.
            mixing: what is done to a batch as a whole.
            soft_labels: batches carry the source's class probabilities.

        Raises:
            VitrailError: the batch does not divide, or is larger than the source.
        """
        return Loader(
            source,
            transform,
            batch_size=self.micro_batch(world.size),
            seed=self.seed,
            workers=self.training_workers,
            mixing=mixing,
            rank=world.rank,
            world_size=world.size,
            accumulate=self.accumulate,
            on_error=self.on_error,
            cache=self._cache,
            soft_labels=soft_labels,
        )

    def measuring_loader(self, source: Source, transform: PictureTransform, world: World, workers: int = 0) -> Loader:
        """This process's share of pictures to measure with, each once.

        Args:
            source: the pictures.
            transform: how one is looked at.
            world: the processes that train together.
            workers: processes that read.
        """
        return Loader(
            source,
            transform,
            batch_size=self.micro_batch(world.size),
            shuffle=False,
            drop_last=False,
            workers=workers,
            rank=world.rank,
            world_size=world.size,
            on_error=self.on_error,
            cache=self._cache,
        )

    @property
    def _cache(self) -> Literal["auto", False]:
        return "auto" if self.cache else False
