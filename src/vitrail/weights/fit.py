"""Every family's adaptation, and loading found weights into the model that was asked for."""

from __future__ import annotations

from dataclasses import fields, replace

import torch

from vitrail.models import (
    BeitConfig,
    ConvNeXtConfig,
    DetrConfig,
    DINOv3Config,
    DiTConfig,
    DualEncoderConfig,
    DVAEConfig,
    ImageTowerConfig,
    MAEConfig,
    Model,
    ModelConfig,
    ResNetConfig,
    SamConfig,
    SamEncoderConfig,
    SwinConfig,
    VideoConfig,
    VideoMAEConfig,
    ViTConfig,
    build,
    build_unfilled,
)
from vitrail.weights import (
    adapt_autoencoder,
    adapt_clip,
    adapt_conv,
    adapt_dinov3,
    adapt_dvae,
    adapt_relative,
    adapt_sam,
    adapt_video,
    adapt_vit,
    detr,
    dit,
)
from vitrail.weights.account import FRESH, Account, shorten
from vitrail.weights.adapt import Adaptation
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import State, Translated

ADAPTATIONS: dict[type[ModelConfig], Adaptation] = {
    ViTConfig: adapt_vit.ADAPTATION,
    DINOv3Config: adapt_dinov3.ADAPTATION,
    ResNetConfig: adapt_conv.RESNET,
    ConvNeXtConfig: adapt_conv.CONVNEXT,
    DiTConfig: dit.ADAPTATION,
    DVAEConfig: adapt_dvae.ADAPTATION,
    MAEConfig: adapt_autoencoder.PICTURES,
    VideoConfig: adapt_video.ADAPTATION,
    VideoMAEConfig: adapt_autoencoder.CLIPS,
    DetrConfig: detr.ADAPTATION,
    SwinConfig: adapt_relative.SWIN,
    BeitConfig: adapt_relative.BEIT,
    SamEncoderConfig: adapt_sam.ENCODER_ADAPTATION,
    SamConfig: adapt_sam.ADAPTATION,
    ImageTowerConfig: adapt_clip.TOWER,
    DualEncoderConfig: adapt_clip.PAIR,
}


def of_family(found: Translated, named: ModelConfig) -> Translated:
    """The weights of the named architecture's family, taken out of another's where they are a part of it."""
    take = ADAPTATIONS[type(named)].takes.get(type(found.config))
    if take is None:
        return found
    taken = take(found)
    account = taken.account
    account.settle(account.assumed.keys() - {field.name for field in fields(taken.config)})  # Of what was left behind.
    return taken


def asked_for(found: Translated, named: ModelConfig) -> ModelConfig:
    """A named architecture with what its checkpoint knows better.

    Raises:
        CheckpointError: weights of another family.
    """
    if type(named) is not type(found.config):
        raise CheckpointError(
            f"{found.account.source}: weights of another family than the one asked for: they fit a "
            f"{type(found.config).__name__}, asked for is a {type(named).__name__}"
        )
    fields_of_file = ADAPTATIONS[type(named)].from_the_file
    return replace(named, **{name: getattr(found.config, name) for name in fields_of_file})


def told_by_name(named: ModelConfig) -> set[str]:
    """Fields that the name of an architecture tells; in the others its checkpoint knows better."""
    return {field.name for field in fields(named)} - ADAPTATIONS[type(named)].from_the_file


def fit_to(found: Translated, target: ModelConfig) -> State:
    """The found weights for a model of ``target``; weights that have to be made anew are left out.

    What was only assumed of the found ones gives way to ``target``. What is changed, dropped or missing goes into
    ``found.account``.

    Raises:
        CheckpointError: another architecture, naming the fields that differ.
    """
    adaptation = ADAPTATIONS[type(target)]
    _require_same_architecture(found.config, target, adaptation, found.account)
    state = dict(found.state)
    adaptation.fit(state, found.config, target, found.account)
    return state


def load_into_fresh(found: Translated, target: ModelConfig) -> Model:
    """A model of ``target`` with the found weights; what they lack is initialised, and said in the account."""
    state = fit_to(found, target)
    with torch.device("meta"):
        model = build(target)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state]
    found.account.missing |= dict.fromkeys(missing, FRESH)
    model = build(target) if missing else build_unfilled(target)
    wrong = [n for n, tensor in wanted.items() if n in state and state[n].shape != tensor.shape]
    extra = [name for name in state if name not in wanted]
    if wrong or extra:
        raise CheckpointError(f"{found.account.source}: does not fit the model asked for: {shorten(wrong + extra)}")
    model.load_state_dict(state, strict=not missing)
    return model.eval()


def _require_same_architecture(
    source: ModelConfig, target: ModelConfig, adaptation: Adaptation, account: Account
) -> None:
    differ = [
        f"{field.name} {getattr(source, field.name)} (asked for: {getattr(target, field.name)})"
        for field in fields(target)
        if field.name not in adaptation.adaptable | account.assumed.keys()
        and not _same(field.name, getattr(source, field.name), getattr(target, field.name))
    ]
    if differ:
        raise CheckpointError(f"{account.source}: another architecture than the one asked for: {'; '.join(differ)}")


def _same(name: str, one: object, other: object) -> bool:
    if name == "layer_scale":  # Its value is an initial one; whether there is one is the architecture.
        return (one is None) == (other is None)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-6
    return one == other
