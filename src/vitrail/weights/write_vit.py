"""ViT, DeiT and DINOv2 for timm and for Transformers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vitrail.data.preprocess import Preprocess
from vitrail.models import MODELS, ViTConfig
from vitrail.weights import hf, timm
from vitrail.weights.account import Account
from vitrail.weights.names import Files
from vitrail.weights.preprocessing import to_timm, to_transformers


def for_timm(
    config: ViTConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``timm.create_model("local-dir:…")``."""
    tensors = timm.write(config, state, account)
    return tensors, {"config.json": timm.config_json(config, _timm_name(config), classes, to_timm(preprocess))}


def for_transformers(
    config: ViTConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """A folder for ``from_pretrained``."""
    return hf.write(config, state, account), {
        "config.json": hf.config_json(config, classes),
        "preprocessor_config.json": to_transformers(preprocess),
    }


STRUCTURE = ("patch_size", "embed_dim", "num_heads", "mlp", "distilled", "registers")
"""What an architecture's name fixes in timm; the rest are arguments."""


def _timm_name(config: ViTConfig) -> str | None:
    """The name under which timm has this architecture (at some depth); None when it has no name there."""
    for name, known in MODELS.items():
        if not isinstance(known, ViTConfig):
            continue
        same = all(getattr(known, field) == getattr(config, field) for field in STRUCTURE)
        scaled = (known.layer_scale is None) == (config.layer_scale is None)
        placed = known.registers > 0 or known.class_position == config.class_position
        plain = known.class_token == config.class_token and known.qkv_bias == config.qkv_bias
        if (
            same
            and scaled
            and placed
            and plain
            and not config.qk_norm
            and abs(known.mlp_ratio - config.mlp_ratio) < 1e-6
        ):
            return name
    return None
