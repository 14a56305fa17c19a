"""ResNet and ConvNeXt for timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.preprocess import Preprocess
from vitrail.models import MODELS, ConvNeXtConfig, ResNetConfig
from vitrail.nn.embed import as_pair
from vitrail.weights.account import Account
from vitrail.weights.conv import resnet_name, timm_name
from vitrail.weights.names import Files, Name, rename
from vitrail.weights.preprocessing import to_timm


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
    tensors = rename(state, [Name(name, (resnet_name(name),)) for name in state])
    for name in [name for name in tensors if name.endswith("running_var")]:
        # Frozen norms do not count; timm's, which are not frozen, do.
        tensors.setdefault(name.replace("running_var", "num_batches_tracked"), torch.zeros((), dtype=torch.int64))
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
    tensors = rename(state, [Name(name, (timm_name(name),)) for name in state])
    tensors = {name: t.flatten() if name.endswith(".gamma") else t for name, t in tensors.items()}
    name = _name(config, "depths", "widths") or "convnext_tiny"
    arguments = {"depths": list(config.depths), "dims": list(config.widths)}
    return tensors, {"config.json": _json(config, name, arguments, classes, preprocess)}


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
