"""The options of ``pretrain``."""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.data import Augment
from vitrail.jobs.training import Training


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Training):
    """Learn features from pictures alone. The same command on an unfinished --out continues it.

    Any folder of pictures will do; where the data has classes they are used for one thing only, to say how well
    nearest neighbours in the features agree with them. The defaults are MAE's recipe at a batch of 256; for another
    batch the papers scale the learning rate with it.
    """

    method: str = "mae"
    """What is learnt from: mae, simmim … (see: vitrail list methods)."""
    method_options: tuple[str, ...] = ()
    """Numbers of the method, as mask_ratio=0.75."""
    model: str = "vit_tiny_patch16_224"
    """Name of an architecture or of pretrained weights (see: vitrail list), folder of a run, or a checkpoint file."""
    pretrained: bool = False
    """Start from the model's weights instead of fresh ones."""
    labels: bool = True
    """--no-labels treats folders as no classes, and measures no nearest neighbours."""

    batch_size: int = 256
    """Pictures per optimiser step over all processes."""
    epochs: int = 100
    """Passes over the training pictures."""
    lr: float = 1.5e-4
    """Highest learning rate."""
    min_lr: float = 0.0
    """Where the cosine ends."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's two averages."""
    layer_decay: float = 1.0
    """Each layer nearer the input learns at this multiple of the next one's rate; 1 for none."""
    clip_norm: float | None = None
    """Largest gradient norm; None for any."""
    ema_decay: float | None = None
    """Of a moving average of the weights that is measured and kept, besides what the method does; None for none."""
    drop_path: float = 0.0
    """Stochastic depth of the last block."""
    crop_scale: tuple[float, float] | None = (0.2, 1.0)
    """Area of random resized crops, for methods without crops of their own; None takes pictures as evaluation does."""
    hflip: float = 0.5
    """Probability of a mirror image."""
    vflip: float = 0.0
    """Probability of an upside-down image."""
    quarter_turns: bool = False
    """Random turns by 90 degrees."""
    color_jitter: float = 0.0
    """Strength of random brightness, contrast and saturation, for methods without colours of their own."""

    eval_every: int = 10
    """Epochs between measurements of the features and pictures of them; the last one is always measured."""
    k: int = 10
    """Neighbours that vote in these measurements."""
    measured: int = 2000
    """How many pictures each of the training and the held-out part is measured on at most."""
    pictured: int = 6
    """Held-out pictures that are shown over time; 0 for none."""

    def augment(self) -> Augment:
        """How a view of a picture varies."""
        return Augment(
            scale=self.crop_scale,
            hflip=self.hflip,
            vflip=self.vflip,
            quarter_turns=self.quarter_turns,
            randaugment=None,
            color_jitter=self.color_jitter,
            erasing=0.0,
        )
