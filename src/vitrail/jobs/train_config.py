"""The options of ``train``, and how they become augmentation, mixing and engine settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import yaml
from tyro.conf import Positional

from vitrail.contracts import VitrailError
from vitrail.data import Augment, Mixing
from vitrail.engine import EngineConfig
from vitrail.jobs.settings import Settings
from vitrail.models.tune import Tune, tune_full, tune_head, tune_last, tune_lora


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """Train or fine-tune a classifier. The same command on an unfinished --out continues it.

    The defaults are the recipe of DeiT and BEiT for fine-tuning: AdamW with decay on matrices only, warm-up and cosine,
    RandAugment, Mixup and CutMix with switching, random erasing, label smoothing, stochastic depth, clipping, a moving
    average of the weights, and layer-wise learning-rate decay. Recipes (``--recipe NAME``) set other values by name.
    """

    data: Positional[str]
    """A folder (train/ and val/, or one per class), a .csv, an IDX folder, or digits, elpv, fashion-mnist, hub:NAME."""
    model: str = "vit_small_patch14_dinov2"
    """Name of a model (see: vitrail list), folder of a run or artefact, or a checkpoint file."""
    pretrained: bool = True
    """Start from the model's public weights; --no-pretrained starts from scratch."""
    model_options: tuple[str, ...] = ()
    """Further fields of the architecture, as depth=6 embed_dim=192."""
    crop: float | None = None
    """Share of the resized picture that evaluation keeps (1 keeps all). Left out: what the weights were made with."""
    val_fraction: float = 0.25
    """Share held out, by a seeded stratified split, when the data has no validation part."""
    split_seed: int = 0
    """Of that split, so that runs with other seeds are measured on the same pictures."""

    soft_labels: bool = False
    """Train on the class probabilities that the data states (elpv, columns p:CLASS of a .csv) instead of one class."""
    head: str = "fresh"
    """How the classifier starts: fresh (noise), probe (a linear probe of the frozen features), or a probe's folder."""
    tune: Literal["full", "last", "head", "lora"] = "full"
    """What learns: all layers, the last blocks, the head alone, or low-rank updates."""
    tune_blocks: int = 4
    """How many blocks learn with --tune last."""
    lora_rank: int = 8
    """Inner width of the updates with --tune lora."""
    lora_alpha: float = 16.0
    """Scale of the updates times their rank."""

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
    clip_norm: float | None = 1.0
    """Largest gradient norm."""
    ema_decay: float | None = 0.9998
    """Of the moving average that is evaluated and kept; None for none."""
    drop_path: float = 0.1
    """Stochastic depth of the last block."""
    dropout: float = 0.0
    """On activations."""

    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    """Area of random resized crops; None takes pictures as evaluation does."""
    hflip: float = 0.5
    """Probability of a mirror image."""
    vflip: float = 0.0
    """Probability of an upside-down image."""
    quarter_turns: bool = False
    """Random turns by 90 degrees."""
    randaugment: tuple[int, int] | None = (2, 9)
    """Operations per picture and their magnitude."""
    color_jitter: float = 0.0
    """Strength of random brightness, contrast and saturation."""
    erasing: float = 0.25
    """Probability that a random rectangle is erased."""
    mixup: float = 0.8
    """Alpha of Mixup; 0 for none."""
    cutmix: float = 1.0
    """Alpha of CutMix; 0 for none. With both, each batch draws one."""
    mix_prob: float = 1.0
    """Share of the batches that are mixed."""
    smoothing: float = 0.1
    """Label smoothing."""

    compile: bool = False
    """Compile the model with torch.compile."""
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
    compare: tuple[str, ...] = ()
    """Results to set beside this one in the report, each as 'name=per cent=source'."""
    report: bool = True
    """Write report.html at the end."""
    fresh: bool = False
    """Start over: forget the checkpoints and results of an earlier run in --out."""

    def options(self) -> dict[str, Any]:
        """Every field of the architecture that this config sets."""
        options = {**self.model_overrides(), "drop_path": self.drop_path, "dropout": self.dropout}
        for option in self.model_options:
            name, equals, value = option.partition("=")
            if not equals:
                raise VitrailError(f"model option {option!r} is not of the form name=value")
            options[name.replace("-", "_")] = yaml.safe_load(value)
        return options

    def augment(self) -> Augment:
        """How training pictures vary."""
        return Augment(
            scale=self.crop_scale,
            hflip=self.hflip,
            vflip=self.vflip,
            quarter_turns=self.quarter_turns,
            randaugment=self.randaugment,
            color_jitter=self.color_jitter,
            erasing=self.erasing,
        )

    def mixing(self, num_classes: int) -> Mixing | None:
        """How training batches are mixed and smoothed; None when they are not."""
        if not (self.mixup or self.cutmix or self.smoothing):
            return None
        return Mixing(num_classes, self.mixup, self.cutmix, prob=self.mix_prob, smoothing=self.smoothing)

    def tuning(self) -> Tune:
        """What is frozen."""
        if self.tune == "last":
            return tune_last(self.tune_blocks)
        if self.tune == "lora":
            return tune_lora(self.lora_rank, self.lora_alpha)
        return tune_head if self.tune == "head" else tune_full

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
