"""The table of methods that learn without labels: what each is built from and how it looks at pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from vitrail.contracts import Method, VitrailError
from vitrail.data import Splits
from vitrail.data.reading import PictureTransform
from vitrail.jobs.embed import FeaturePool
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.pretraining.clips import build_videomae, open_video, plain_clip, tube_view
from vitrail.jobs.pretraining.masked import build_mae, build_simmim, mae_view, simmim_view
from vitrail.jobs.pretraining.pairs import build_clip, image_tower, open_pairs, pair_files, show_tower
from vitrail.jobs.pretraining.pictures import Show, show_codes, show_features, show_reconstruction
from vitrail.jobs.pretraining.start import Start, augmented_view, own_files, plain_view
from vitrail.jobs.pretraining.tokens import beit_view, build_beit, build_tokenizer
from vitrail.jobs.pretraining.views import build_dino, build_dinov2, masked_multi_crop, multi_crop
from vitrail.jobs.teacher import build_distill_features
from vitrail.methods import (
    BEiTOptions,
    CLIPOptions,
    DINOOptions,
    DINOv2Options,
    DistillFeaturesOptions,
    MAEOptions,
    SimMIMOptions,
    TokenizerOptions,
    VideoMAEOptions,
)


def all_of(kept: nn.Module) -> nn.Module:
    """What a method keeps, whole."""
    return kept


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
        opens: the data where it is more than pictures (captions, clips), from the config, the start and the options;
            None for pictures.
        files: small text files that the kept model needs besides its weights.
        plain: how held-out samples are looked at when they are measured: without any randomness.
        encoder: the part of what the method keeps whose features are measured.
        pictures: whether what is learnt looks at pictures, so that some can be drawn over time.

    ``needs`` and ``fresh`` are set where the family has such fields; ``--model-options`` win over both.
    """

    options: type[Any]
    build: Callable[[Start, Any], Method]
    transform: Callable[[Start, Any], PictureTransform]
    needs: Mapping[str, Any] = field(default_factory=dict)
    fresh: Mapping[str, Any] = field(default_factory=dict)
    pool: FeaturePool = "class"
    show: Show = show_features
    opens: Callable[[PretrainConfig, Start, Any], Splits] | None = None
    files: Callable[[Start, Any], Mapping[str, str]] = own_files
    plain: Callable[[Start], PictureTransform] = plain_view
    encoder: Callable[[nn.Module], nn.Module] = all_of
    pictures: bool = True


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
    "distill_features": Pretraining(DistillFeaturesOptions, build_distill_features, augmented_view),
    "clip": Pretraining(
        CLIPOptions,
        build_clip,
        augmented_view,
        show=show_tower,
        opens=open_pairs,
        files=pair_files,
        encoder=image_tower,
    ),
    "videomae": Pretraining(
        VideoMAEOptions,
        build_videomae,
        tube_view,
        pool="mean",
        opens=open_video,
        plain=plain_clip,
        pictures=False,
    ),
    "tokenizer": Pretraining(TokenizerOptions, build_tokenizer, augmented_view, show=show_codes),
    "beit": Pretraining(
        BEiTOptions,
        build_beit,
        beit_view,
        needs={"mask_token": True, "pool_norm": False, "pool": "mean"},
        fresh={"shared_bias": True},
        pool="mean",
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
