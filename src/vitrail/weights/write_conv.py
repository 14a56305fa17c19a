"""ResNet and ConvNeXt for timm and for Transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.preprocess import Preprocess
from vitrail.models import MODELS, ConvNeXtConfig, ResNetConfig
from vitrail.models.conv import BLOCKS, BlockName
from vitrail.nn.embed import as_pair
from vitrail.weights import hf, hf_conv
from vitrail.weights.account import Account
from vitrail.weights.conv import resnet_name, timm_name
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import Files, Name, State, rename
from vitrail.weights.preprocessing import to_timm, to_transformers

TIMM_EPS = 1e-6


def resnet_for_timm(
    config: ResNetConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``timm.create_model("local-dir:…")``.

    Raises:
        VitrailError: a stem for small pictures, which timm has no argument for.
    """
    if config.stem != "large":
        raise VitrailError("timm has no ResNet whose stem keeps the picture's sides (stem='small')")
    tensors = _counted(rename(state, [Name(name, (resnet_name(name),)) for name in state]))
    name = _name(config, "depths", "block") or ("resnet18" if config.block == "basic" else "resnet50")
    arguments = {"layers": list(config.depths)}
    return tensors, {"config.json": _json(config, name, arguments, classes, preprocess)}


def convnext_for_timm(
    config: ConvNeXtConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``timm.create_model("local-dir:…")``."""
    if config.norm_eps != TIMM_EPS:
        account.notes.append(
            f"the epsilon of fc_norm is {config.norm_eps:g}, but always {TIMM_EPS:g} in timm: the last digits differ"
        )
    tensors = rename(state, [Name(name, (timm_name(name),)) for name in state])
    tensors = {name: t.flatten() if name.endswith(".gamma") else t for name, t in tensors.items()}
    name = _name(config, "depths", "widths") or "convnext_tiny"
    arguments = {"depths": list(config.depths), "dims": list(config.widths)}
    return tensors, {"config.json": _json(config, name, arguments, classes, preprocess)}


def resnet_for_transformers(
    config: ResNetConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``from_pretrained``.

    Raises:
        CheckpointError: a stem for small pictures, which Transformers has no argument for.
    """
    if config.stem != "large":
        raise CheckpointError("Transformers has no ResNet whose stem keeps the picture's sides (stem='small')")
    numbers = resnet_numbers(config.in_channels, config.depths, config.block)
    tensors = _counted(rename(state, [Name(name, (hf_conv.resnet_name(name),)) for name in state]))
    return _for_transformers(config, "ResNet", numbers, tensors, classes, preprocess)


def convnext_for_transformers(
    config: ConvNeXtConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``from_pretrained``."""
    tensors = rename(state, [Name(name, (hf_conv.convnext_name(name),)) for name in state])
    tensors = {name: t.flatten() if name.endswith("layer_scale_parameter") else t for name, t in tensors.items()}
    numbers = {
        "model_type": "convnext",
        "num_channels": config.in_channels,
        "image_size": config.img_size if isinstance(config.img_size, int) else list(config.img_size),
        "patch_size": 4,
        "num_stages": 4,
        "hidden_sizes": list(config.widths),
        "depths": list(config.depths),
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps,
        "layer_scale_init_value": config.layer_scale,
        "drop_path_rate": config.drop_path,
    }
    return _for_transformers(config, "ConvNext", numbers, tensors, classes, preprocess)


def resnet_numbers(in_channels: int, depths: Sequence[int], block: BlockName) -> dict[str, Any]:
    """Transformers' config of a ResNet, of a model or of a detector's backbone."""
    return {
        "model_type": "resnet",
        "num_channels": in_channels,
        "embedding_size": 64,
        "hidden_sizes": [width * BLOCKS[block].expansion for width in (64, 128, 256, 512)],
        "depths": list(depths),
        "layer_type": block,
        "hidden_act": "relu",
    }


def _for_transformers(
    config: ResNetConfig | ConvNeXtConfig,
    family: str,
    numbers: dict[str, Any],
    tensors: State,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A model with a classifier, whose backbone stands behind a prefix, or the bare one."""
    if config.num_classes:
        prefix = f"{numbers['model_type']}."
        tensors = {name if name.startswith("classifier.") else prefix + name: t for name, t in tensors.items()}
    described = {
        "architectures": [f"{family}{'ForImageClassification' if config.num_classes else 'Model'}"],
        **numbers,
        **hf.classes_json(config.num_classes, classes),
        "dtype": "float32",
    }
    return tensors, {"config.json": described, "preprocessor_config.json": to_transformers(preprocess)}


def _counted(tensors: State) -> State:
    """The same with a counter beside every norm: frozen ones do not count, those of other libraries do."""
    norms = [name.removesuffix("running_var") for name in tensors if name.endswith("running_var")]
    zeros = {f"{norm}num_batches_tracked": torch.zeros((), dtype=torch.int64) for norm in norms}
    return {**zeros, **tensors}


def _name(config: ResNetConfig | ConvNeXtConfig, *structure: str) -> str | None:
    """The name under which timm has this architecture; None when it has none."""
    for name, known in MODELS.items():
        same = type(known) is type(config) and all(getattr(known, f) == getattr(config, f) for f in structure)
        if same:
            return name
    return None


def _json(
    config: ResNetConfig | ConvNeXtConfig,
    name: str,
    arguments: dict[str, Any],
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> dict[str, Any]:
    return {
        "architecture": name,
        "num_classes": config.num_classes,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [config.in_channels, *as_pair(config.img_size)],
            "num_classes": config.num_classes,
            **to_timm(preprocess),
            **({"label_names": list(classes)} if classes else {}),
        },
    }
