"""Several views of a picture in ``vitrail pretrain``: DINO and DINOv2, and their crops."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from vitrail.contracts import VitrailError
from vitrail.data import MultiCrop, MultiCropTransform
from vitrail.engine import init
from vitrail.jobs.pretraining.heads import take_heads
from vitrail.jobs.pretraining.start import Start, patch_grid, vision_transformer
from vitrail.jobs.progress import say_once
from vitrail.methods.dino import DINO, DINOOptions
from vitrail.methods.dinov2 import DINOv2, DINOv2Options, draw_mask
from vitrail.models import Backbone


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
