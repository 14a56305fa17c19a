"""The table of methods that learn without labels: what each is built from and how it looks at pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vitrail.contracts import Method, VitrailError
from vitrail.data import Augment, MultiCrop, MultiCropTransform, Preprocess, TrainTransform
from vitrail.data.reading import PictureTransform
from vitrail.engine import init
from vitrail.jobs.embed import FeaturePool
from vitrail.jobs.pretrain_heads import take_heads
from vitrail.jobs.pretrain_pictures import Show, show_features, show_reconstruction
from vitrail.jobs.progress import say_once
from vitrail.methods.dino import DINO, DINOOptions
from vitrail.methods.dinov2 import DINOv2, DINOv2Options, draw_mask
from vitrail.methods.mae import MAE, MAEOptions, MaskedView
from vitrail.methods.simmim import SimMIM, SimMIMOptions, SquaresView
from vitrail.models import Backbone, MAEConfig, MaskedAutoencoder, Model, VisionTransformer
from vitrail.models.mae import around


@dataclass(frozen=True)
class Start:
    """What a method is built from.

    Attributes:
        model: as ``--model``, ``--model-options`` and ``--pretrained`` say; it has no classifier.
        preprocess: the model's.
        augment: how views of a picture vary, for methods that do not vary them in a way of their own.
        online: whether further models (a teacher, a tokenizer) may be downloaded.
    """

    model: Model
    preprocess: Preprocess
    augment: Augment
    online: bool = False


@dataclass(frozen=True)
class Pretraining:
    """How a method enters ``vitrail pretrain``.

    Attributes:
        options: the dataclass of the method's numbers; every field has a default.
        build: the method from its start and its options.
        transform: what makes a sample of a picture, from the same two.
        needs: fields of the architecture that the method sets, whatever the weights.
        fresh: fields of the architecture that the paper sets where weights are fresh.
        pool: what the method makes the features of: what the online nearest neighbours read.
        show: what of a few fixed pictures is drawn over time.

    ``needs`` and ``fresh`` are set where the family has such fields; ``--model-options`` win over both.
    """

    options: type[Any]
    build: Callable[[Start, Any], Method]
    transform: Callable[[Start, Any], PictureTransform]
    needs: Mapping[str, Any] = field(default_factory=dict)
    fresh: Mapping[str, Any] = field(default_factory=dict)
    pool: FeaturePool = "class"
    show: Show = show_features


def build_mae(start: Start, options: MAEOptions) -> MAE:
    """MAE around a ViT with a fresh decoder, or with the decoder that an autoencoder brings along."""
    if isinstance(start.model, MaskedAutoencoder):
        return MAE(start.model, options.normalise)
    decoder = MAEConfig(
        decoder_embed_dim=options.decoder_embed_dim,
        decoder_depth=options.decoder_depth,
        decoder_num_heads=options.decoder_num_heads,
        mask_ratio=options.mask_ratio,
    )
    return MAE(around(vision_transformer(start, "mae"), decoder), options.normalise)


def mae_view(start: Start, options: MAEOptions) -> MaskedView:
    """One augmented view and the patches of it that are seen."""
    return MaskedView(TrainTransform(start.preprocess, start.augment), patch_grid(start), options.mask_ratio)


def build_dino(start: Start, options: DINOOptions) -> DINO:
    """DINO around any encoder that gives one vector a picture."""
    if not isinstance(start.model, Backbone):
        raise VitrailError(f"dino trains an encoder of pictures, not a {type(start.model).__name__}")
    method = DINO(start.model, options)
    if options.heads is not None:
        take_heads(method, Path(options.heads), ("student_head", "teacher_head", "center"))
    return method


def build_dinov2(start: Start, options: DINOv2Options) -> DINOv2:
    """DINOv2 around a ViT, with fresh heads or those of an earlier run."""
    model = vision_transformer(start, "dinov2")
    if model.mask_token is not None and not model.mask_token.any():
        say_once(init(), "the mask token is a fresh one (zeros)")
    method = DINOv2(model, options)
    if options.heads is not None:
        heads = ("student_head", "student_patch_head", "teacher_head", "teacher_patch_head")
        take_heads(method, Path(options.heads), heads)
    return method


def multi_crop(start: Start, options: MultiCrop) -> MultiCropTransform:
    """Global views of the model's size, local ones of whole patches."""
    local = options.local_side(start.preprocess.size, start.model.patch_size)
    return MultiCropTransform(start.preprocess, options, start.augment, local)


def masked_multi_crop(start: Start, options: DINOv2Options) -> MultiCropTransform:
    """The same with masks of the global views."""
    local = options.local_side(start.preprocess.size, start.model.patch_size)
    mask = partial(draw_mask, patch_grid(start), options)
    return MultiCropTransform(start.preprocess, options, start.augment, local, mask)


def build_simmim(start: Start, options: SimMIMOptions) -> SimMIM:
    """SimMIM on a ViT that has a mask token."""
    return SimMIM(vision_transformer(start, "simmim"))


def simmim_view(start: Start, options: SimMIMOptions) -> SquaresView:
    """One augmented view and the squares of it that are hidden."""
    view = TrainTransform(start.preprocess, start.augment)
    return SquaresView(view, patch_grid(start), start.model.patch_size, options)


def vision_transformer(start: Start, method: str) -> VisionTransformer:
    """The start's model, for methods that need a plain ViT.

    Raises:
        VitrailError: it is another.
    """
    if not isinstance(start.model, VisionTransformer):
        raise VitrailError(f"{method} trains a Vision Transformer (vit_…), not a {type(start.model).__name__}")
    return start.model


def patch_grid(start: Start) -> tuple[int, int]:
    """Rows and columns of patches at the size of the preprocessing."""
    (height, width), (tall, wide) = start.preprocess.size, start.model.patch_size
    return height // tall, width // wide


PRETRAINING: dict[str, Pretraining] = {
    "mae": Pretraining(
        MAEOptions,
        build_mae,
        mae_view,
        needs={"pool": "mean"},
        fresh={"positions": "sincos", "init": "mae"},
        pool="mean",
        show=show_reconstruction,
    ),
    "simmim": Pretraining(
        SimMIMOptions, build_simmim, simmim_view, needs={"mask_token": True, "pool": "mean"}, pool="mean"
    ),
    "dino": Pretraining(DINOOptions, build_dino, multi_crop),
    "dinov2": Pretraining(DINOv2Options, build_dinov2, masked_multi_crop, needs={"mask_token": True}),
}


def pretraining(name: str) -> Pretraining:
    """A method by its name.

    Raises:
        VitrailError: there is no such method.
    """
    if name not in PRETRAINING:
        raise VitrailError(f"there is no method {name!r} for pretraining; there are {', '.join(PRETRAINING)}")
    return PRETRAINING[name]
