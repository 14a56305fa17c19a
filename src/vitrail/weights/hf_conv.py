"""ResNet and ConvNeXt as Transformers names them, with a classifier or bare."""

from __future__ import annotations

from dataclasses import replace

import torch

from vitrail.nn.embed import as_pair
from vitrail.weights import hf
from vitrail.weights.account import Account
from vitrail.weights.conv import ConvNeXtNaming, ResNetNaming, names_of, part_of_block, place_of
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.infer import simplest
from vitrail.weights.names import Format, State, Translated

BLOCKS = r"encoder\.stages\.{s}\.layers\.(\d+)\."
PARTS = {"0": "dwconv", "2": "layernorm", "3": "pwconv1", "5": "pwconv2"}
FINAL_EPS = 1e-12
"""Of the norm behind the pool, where no ``config.json`` says another."""


def stage_name(name: str) -> str:
    """Transformers' name of a tensor of torchvision's ResNet, its classifier left out."""
    if not name.startswith("layer"):
        return "embedder.embedder." + name.replace("conv1", "convolution").replace("bn1", "normalization")
    stage, block, part, *rest = name.removeprefix("layer").split(".")
    inside = f"encoder.stages.{int(stage) - 1}.layers.{block}"
    if part == "downsample":
        return f"{inside}.shortcut.{('convolution', 'normalization')[int(rest[0])]}.{rest[1]}"
    kind = "convolution" if part.startswith("conv") else "normalization"
    return f"{inside}.layer.{int(part[-1]) - 1}.{kind}.{rest[0]}"


def resnet_name(ours: str) -> str:
    """Transformers' name of a tensor of our ResNet, without ``resnet.``."""
    if not ours.startswith("stages."):
        return ours.replace("head.", "classifier.1.")
    return stage_name(ours.removeprefix("stages."))


def convnext_name(ours: str) -> str:
    """Transformers' name of a tensor of our ConvNeXt, without ``convnext.``."""
    if not ours.startswith("stages."):
        return ours.replace("fc_norm.", "layernorm.").replace("head.", "classifier.")
    layer, inside, rest = place_of(ours)
    if not layer:
        return f"embeddings.{('patch_embeddings', 'layernorm')[int(inside)]}.{rest}"
    stage = f"encoder.stages.{layer // 2}"
    if layer % 2 == 0:
        return f"{stage}.downsampling_layer.{inside}.{rest}"
    return f"{stage}.layers.{inside}.{part_of_block(rest, PARTS, 'layer_scale_parameter')}"


RESNET = ResNetNaming("Transformers (resnet)", resnet_name, BLOCKS)
CONVNEXT = ConvNeXtNaming("Transformers (convnext)", convnext_name, BLOCKS)


def _bare(name: str, family: str) -> str:
    return name.removeprefix(f"{family}.")


def resnet_recognises(names: frozenset[str]) -> bool:
    """A stem and the first block of the first stage."""
    return RESNET.recognises(frozenset(_bare(name, "resnet") for name in names))


def read_resnet(raw: Raw) -> Translated:
    """A ResNet of Transformers in our words."""
    account, config = Account(str(raw.path), RESNET.name), raw.config
    wrong = {
        f"the model {config.get('model_type')!r}": config.get("model_type", "resnet") != "resnet",
        f"the activation {config.get('hidden_act')!r}": config.get("hidden_act", "relu") != "relu",
        "strides in the first convolution of a block": bool(config.get("downsample_in_bottleneck")),
        "a first stage with a stride": bool(config.get("downsample_in_first_stage")),
    }
    found = [reason for reason, holds in wrong.items() if holds]
    if found:
        raise CheckpointError(f"{raw.path}: config.json says {'; '.join(found)}: no ResNet that can be had here")
    tensors = {_bare(name, "resnet"): tensor for name, tensor in raw.tensors.items()}
    made, state = RESNET.translate(tensors, 224, account)
    return Translated(made, state, account, hf.classes_of(config))


def convnext_recognises(names: frozenset[str]) -> bool:
    """A stem and the first block of the first stage."""
    bare = {_bare(name, "convnext") for name in names}
    ours = ("stages.features.0.0.weight", "stages.features.1.0.block.0.weight")
    return all(convnext_name(name) in bare for name in ours)


def read_convnext(raw: Raw) -> Translated:
    """A ConvNeXt of Transformers in our words."""
    account, config = Account(str(raw.path), CONVNEXT.name), raw.config
    hf.require_declared(raw, "convnext")
    size = config.get("image_size", 224)
    img_size = simplest(as_pair(size if isinstance(size, int) else (int(size[0]), int(size[1]))))
    tensors = {_bare(name, "convnext"): tensor for name, tensor in raw.tensors.items()}
    made, state = CONVNEXT.translate(tensors, img_size, account)
    made = replace(made, norm_eps=float(config.get("layer_norm_eps", FINAL_EPS)))
    scales = [name for name in names_of(made) if name.endswith("layer_scale")]
    if not any(name in state for name in scales):
        _fill_scales(scales, state, account)
    return Translated(made, state, account, hf.classes_of(config))


def _fill_scales(scales: list[str], state: State, account: Account) -> None:
    """Ones in place of the factors of a model that was built without any."""
    for name in scales:
        width = state.get(name.replace("layer_scale", "block.0.weight"))
        if width is not None:
            state[name] = torch.ones(len(width), 1, 1)
            account.missing[name] = "one: this model has no layer scale"


FORMATS = (
    Format(RESNET.name, resnet_recognises, read_resnet),
    Format(CONVNEXT.name, convnext_recognises, read_convnext),
)
