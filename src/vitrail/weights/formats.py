"""Every format that is read, in the order in which names are tried against them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from vitrail.models import build
from vitrail.weights import (
    beit,
    big_vision,
    conv,
    detr,
    dinov2,
    dinov3,
    dit,
    google,
    hf,
    hf_clip,
    hf_conv,
    hf_mae,
    hf_videomae,
    mae,
    open_clip,
    sam,
    swin,
    timm_tower,
    videomae,
)
from vitrail.weights.account import Account, shorten
from vitrail.weights.artefact import is_artefact, read_artefact
from vitrail.weights.dinov2_onnx import read_onnx
from vitrail.weights.files import CheckpointError, read_raw
from vitrail.weights.names import Format, Translated
from vitrail.weights.preprocessing import stored_preprocess

FORMATS: tuple[Format, ...] = (
    *dinov3.FORMATS,
    *conv.FORMATS,
    *hf_conv.FORMATS,
    *swin.FORMATS,
    *beit.FORMATS,
    mae.FORMAT,
    *dit.FORMATS,
    videomae.FORMAT,
    hf_mae.FORMAT,
    hf_videomae.FORMAT,
    *detr.FORMATS,
    sam.FORMAT,
    dinov2.FORMAT,
    hf.FORMAT,
    hf_clip.FORMAT,
    open_clip.FORMAT,
    big_vision.FORMAT,
    google.FORMAT,
    timm_tower.FORMAT,
    timm_tower.UNNORMED,
)


def recognise(names: Iterable[str], source: str = "these names") -> Format:
    """The format whose naming this is, by the names alone.

    Raises:
        CheckpointError: none, with what was seen and what is known.
    """
    names = frozenset(names)
    for candidate in FORMATS:
        if candidate.recognises(names):
            return candidate
    raise CheckpointError(
        f"{source}: no known Vision Transformer: {len(names)} tensors such as {shorten(sorted(names))}. "
        f"Known formats: {', '.join(candidate.name for candidate in FORMATS)}"
    )


def translate_file(path: str | Path) -> Translated:
    """A checkpoint file or folder in our words, checked to be complete.

    Raises:
        CheckpointError: unreadable, unknown, incomplete, or with tensors nobody knows.
    """
    if is_artefact(path):
        stored = read_artefact(path)
        account = Account(str(path), "Vitrail artefact", translated={name: name for name in stored.state})
        return Translated(stored.config, stored.state, account, stored.classes, stored.preprocess, stored.files)
    if Path(path).suffix == ".onnx":
        translated = read_onnx(path)
    else:
        raw = read_raw(path)
        translated = recognise(raw.tensors, str(raw.path)).read(raw)
        translated = replace(translated, preprocess=stored_preprocess(raw) or translated.preprocess)
        if not translated.config.num_classes:
            # A config.json names classes also for a file that has no classifier (Transformers' pretrained models).
            translated = replace(translated, classes=())
        if raw.wrappers:
            translated.account.notes.append(f"the weights are those under {' › '.join(map(repr, raw.wrappers))}")
    _require_complete(translated)
    return translated


def _require_complete(translated: Translated) -> None:
    with torch.device("meta"):
        wanted = build(translated.config).state_dict()
    state, source = translated.state, translated.account.source
    absent, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if absent:
        raise CheckpointError(f"{source}: incomplete: {len(absent)} weights are missing: {shorten(absent)}")
    if extra:
        raise CheckpointError(f"{source}: has weights that its architecture does not: {shorten(extra)}")
    for name, tensor in wanted.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(state[name].shape)} where the rest of the file asks for "
                f"{tuple(tensor.shape)}"
            )
    if translated.classes and len(translated.classes) != translated.config.num_classes:
        raise CheckpointError(
            f"{source}: {len(translated.classes)} class names for {translated.config.num_classes} outputs"
        )
