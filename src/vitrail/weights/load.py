"""Models by name, with fresh or pretrained weights; checkpoints of any known format; conversion between formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitrail.contracts import VitrailError
from vitrail.data.preprocess import HALF_MEAN, HALF_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.models import MODELS, Model, ModelConfig, ViTConfig, build, config_of, with_overrides
from vitrail.nn.embed import as_pair
from vitrail.weights import google, timm
from vitrail.weights.account import Account
from vitrail.weights.catalogue import Pretrained, lookup
from vitrail.weights.finding import Found, resolve
from vitrail.weights.first_blocks import first_blocks
from vitrail.weights.fit import asked_for, load_into_fresh, of_family, told_by_name
from vitrail.weights.formats import translate_file
from vitrail.weights.names import Translated


@dataclass(frozen=True)
class Loaded:
    """A checkpoint as a model.

    Attributes:
        model: in evaluation mode.
        account: what became of every tensor.
        preprocess: how pictures must be prepared; where nothing says it, a default that the account names.
        classes: names in the order of the logits, empty when not known.
        files: small text files that the model needs besides its weights, by name.
    """

    model: Model
    account: Account
    preprocess: Preprocess
    classes: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)


def create_model(name: str, *, pretrained: bool | str | Path = False, online: bool = False, **overrides: Any) -> Model:
    """A model by its name.

    Args:
        name: an architecture (``vit_base_patch16_224``); or published weights (``vit_base_patch16_224.dino``,
            ``facebook/dinov2-small``) or a checkpoint's path, which with ``pretrained=False`` stand for their
            architecture alone.
        pretrained: True for the published weights of ``name``; or the name or path of the weights to take.
        online: allow downloading from the hub; without it only what is on this machine is used.
        **overrides: fields of the architecture's config (``num_classes``, ``img_size``, ``in_channels``,
            ``patch_size``, ``drop_path`` …). With pretrained weights positions, patches and bands are converted,
            another number of classes gets a fresh head, and a smaller ``depth`` takes the first blocks (of plain
            transformers).

    Returns:
        The model; in evaluation mode when pretrained, in training mode when fresh, as PyTorch has it.

    Raises:
        VitrailError: unknown name or option, weights not on this machine, or of another architecture.
    """
    if pretrained is False:
        return build(named_config(name, overrides))
    return load_pretrained(name, None if pretrained is True else pretrained, online=online, **overrides).model


def load_pretrained(
    name: str | Path, weights: str | Path | None = None, *, online: bool = False, **overrides: Any
) -> Loaded:
    """What :func:`create_model` gives with ``pretrained``, together with its account, preprocessing and classes.

    Args:
        name: as there.
        weights: name or path of the weights; None for those of ``name``.
        online: allow downloading.
        **overrides: as there.
    """
    source = resolve(name if weights is None else weights, online)
    architecture = str(name)
    entry = lookup(architecture)
    found = _translated(source, entry)
    if entry is not None:
        architecture = entry.model
    named = config_of(architecture) if architecture in MODELS else None
    if named is not None:
        found = of_family(found, named)
    if "depth" in overrides:
        found = first_blocks(found, overrides["depth"])
    base, told = found.config, set(overrides)
    if named is not None:
        base = asked_for(found, named)
        told |= told_by_name(named)
    target = with_overrides(base, overrides, architecture)
    model = load_into_fresh(found, target)
    found.account.settle(told)
    keeps_classes = not any(name.startswith("head.") for name in found.account.missing)
    preprocess = _preprocess_of(source, found)
    if "img_size" in overrides:
        preprocess = preprocess.with_size(model.img_size)
    classes = found.classes if keeps_classes else ()
    return Loaded(model, found.account, _fit_bands(preprocess, target.in_channels), classes, found.files)


def named_config(name: str, overrides: Mapping[str, Any] | None = None) -> ModelConfig:
    """The architecture that a name or a checkpoint's path stands for, with some fields replaced.

    Args:
        name: as :func:`create_model` takes it.
        overrides: fields of the config.

    Raises:
        VitrailError: nothing has that name, or an unknown field.
    """
    overrides = overrides or {}
    if name in MODELS:
        return config_of(name, overrides)
    entry = lookup(name)
    if entry is not None:
        return config_of(entry.model, overrides)
    if Path(name).exists():
        return with_overrides(translate_file(name).config, overrides, name)
    return config_of(name, overrides)


def load_checkpoint(path: str | Path) -> Loaded:
    """A checkpoint file or folder, in any known format or Vitrail's own, as the model that it is of.

    Raises:
        VitrailError: unreadable, unknown, incomplete, or with tensors nobody knows.
    """
    if not Path(path).exists():
        raise VitrailError(f"{path}: there is no such file or folder")
    return load_pretrained(path)


def pretrained_preprocess(name: str | Path) -> Preprocess:
    """How pictures must be prepared for a model: by published weights, a checkpoint's path, or an architecture.

    An architecture without published weights gets ImageNet's statistics at its own size.

    Raises:
        VitrailError: none of these has that name.
    """
    path, entry = Path(name), lookup(str(name))
    if path.exists():
        source = Found(path, None)
        return _preprocess_of(source, translate_file(path))
    if entry is not None:
        return entry.preprocess
    return Preprocess(size=as_pair(config_of(str(name)).img_size))


def _preprocess_of(source: Found, found: Translated) -> Preprocess:
    """What the checkpoint says, else the catalogue, else a default that goes into the account."""
    if found.preprocess is not None:
        return found.preprocess
    if source.entry is not None:
        return source.entry.preprocess
    halves = found.account.format == google.FORMAT.name
    mean, std = (HALF_MEAN, HALF_STD) if halves else (IMAGENET_MEAN, IMAGENET_STD)
    found.account.notes.append(
        f"the preprocessing does not stand in the checkpoint: assumed are mean {mean} and std {std}; "
        "wrong ones cost accuracy"
    )
    return Preprocess(size=as_pair(found.config.img_size), mean=mean, std=std)


def _fit_bands(preprocess: Preprocess, bands: int) -> Preprocess:
    """The same for another number of bands, each with the mean of the known statistics."""
    if preprocess.bands == bands:
        return preprocess
    mean, std = (sum(values) / len(values) for values in (preprocess.mean, preprocess.std))
    return replace(preprocess, mean=(mean,) * bands, std=(std,) * bands)


def _translated(source: Found, named: Pretrained | None) -> Translated:
    """A checkpoint in our words; positions are resized as published weights want it, where the file cannot tell."""
    found = translate_file(source.path)
    entry = source.entry
    if entry is None and found.account.format == timm.FORMAT.name:
        entry = named  # The authors' own file of a DINO: timm's names, but not timm's resize.
    if entry and entry.pos_resize and isinstance(found.config, ViTConfig):
        return replace(found, config=replace(found.config, pos_resize=entry.pos_resize))
    return found
