"""The options of ``train``, and how they become augmentation, mixing and engine settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitrail.contracts import VitrailError
from vitrail.data import Augment, Mixing
from vitrail.jobs.comparison import Comparison
from vitrail.jobs.training import Training
from vitrail.methods import DistillOptions
from vitrail.models.tune import Tune, tune_full, tune_head, tune_last, tune_lora


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Training):
    """Train or fine-tune a classifier. The same command on an unfinished --out continues it.

    The defaults are the recipe of DeiT and BEiT for fine-tuning: AdamW with decay on matrices only, warm-up and cosine,
    RandAugment, Mixup and CutMix with switching, random erasing, label smoothing, stochastic depth, clipping, a moving
    average of the weights, and layer-wise learning-rate decay. Recipes (``--recipe NAME``) set other values by name.
    """

    model: str = "vit_small_patch14_dinov2"
    """Name of a model (see: vitrail list), folder of a run or artefact, or a checkpoint file."""
    pretrained: bool = True
    """Start from the model's public weights; --no-pretrained starts from scratch."""
    train_limit: int | None = None
    """Learn from so many labelled pictures only: a seeded choice in which every class has its share."""
    shots: int | None = None
    """Learn from so many labelled pictures of each class only, a seeded choice."""
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

    teacher: str | None = None
    """A trained classifier of the same classes to learn from: a run's or an artefact's folder, a checkpoint, or a name.
    A model with a distillation token (deit_…_distilled…) listens to it there, another with its only head."""
    distillation: Literal["hard", "soft"] = "hard"
    """What is taken from the teacher: the class that it chooses, or its probabilities."""
    distillation_weight: float | None = None
    """Share of the teacher in the loss. Left out: DeiT's 0.5 for hard and 0.1 for soft."""
    distillation_temperature: float = 3.0
    """Divides the logits of both sides; soft only."""

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

    compare: tuple[str, ...] = ()
    """Results to set beside this one in the report, each as 'name=per cent=source'."""

    def __post_init__(self) -> None:
        """Refuse what would otherwise show after the data was read, or after the last epoch."""
        super().__post_init__()
        if self.lora_rank < 1:
            raise VitrailError(f"lora_rank must be at least 1, not {self.lora_rank}")
        for text in self.compare:
            Comparison.parse(text)

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

    def distill(self) -> DistillOptions:
        """How a teacher is listened to."""
        return DistillOptions(self.distillation, self.distillation_weight, self.distillation_temperature)

    def tuning(self) -> Tune:
        """What is frozen."""
        if self.tune == "last":
            return tune_last(self.tune_blocks)
        if self.tune == "lora":
            return tune_lora(self.lora_rank, self.lora_alpha)
        return tune_head if self.tune == "head" else tune_full
