"""The options of every verb that trains: length, rates, habits, and the engine settings that follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tyro.conf import Positional

from vitrail.contracts import Method, VitrailError
from vitrail.engine import EngineConfig, World
from vitrail.jobs.inference import Hardware
from vitrail.jobs.options import named_values
from vitrail.jobs.progress import say_once
from vitrail.jobs.settings import Settings
from vitrail.nn.attention import attention_kernel
from vitrail.nn.encoder import recompute_blocks
from vitrail.speed.native import attention_to_learn_with

FREE = (
    *("workers", "cache", "device", "eval_every", "log_every", "checkpoint_every_s", "tensorboard"),
    *("report", "fresh", "checkpoint_blocks"),
)
"""Options that may differ when a run goes on: they change no result."""


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
    """Parts that a batch is computed in, to save memory; the result is that of the whole batch."""
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
    fresh: bool = False
    """Start over: forget the checkpoints and results of an earlier run in --out."""

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

    @contextmanager
    def quick_attention(self, world: World) -> Iterator[None]:
        """Inside the ``with`` block, attention runs as is quickest to learn with here; a line tells of it."""
        hardware = Hardware.of(self, world)
        # A compiler has ways of its own, into whose graphs a kernel from outside does not fit.
        if self.compile or hardware.precision.name != "bf16":
            yield
            return
        way, said = attention_to_learn_with(hardware.device)
        if way is None:
            yield
            return
        say_once(world, said)
        with attention_kernel(way):
            yield

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
