"""Transformers' naming of MAE with its decoder: the one of the files, and the one of the modules in Transformers 5.

The bare encoder (``ViTMAEModel``) has the names of a ViT and is read there. Transformers 5 saves the decoder's blocks
as ``decoder.decoder_encoder.layer``, the files on the hub have ``decoder.decoder_layers``; all are read, the hub's are
written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from vitrail.data.preprocess import Preprocess
from vitrail.models import MAEConfig
from vitrail.nn.embed import as_pair
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.hf import ACTIVATIONS, EMBEDDINGS, FAMILIES, FILES, MEMORY, VIT_BLOCK
from vitrail.weights.infer import Hints
from vitrail.weights.mae import infer_autoencoder
from vitrail.weights.names import Files as Written
from vitrail.weights.names import Format, Name, Translated, behind, blocks_in, both, expand, rename, translate
from vitrail.weights.preprocessing import to_transformers

ENCODER = [row for row in EMBEDDINGS if row.ours not in ("dist_token", "reg_token", "mask_token")]
DECODER = [
    *both("decoder.embed", "decoder.decoder_embed"),
    Name("decoder.mask_token", ("decoder.mask_token",)),
    Name("decoder_pos_embed", ("decoder.decoder_pos_embed",)),
    *both("decoder.norm", "decoder.decoder_norm"),
    *both("decoder.pred", "decoder.decoder_pred"),
]
STEMS = (
    (FILES, "decoder.decoder_layers.{i}"),
    (MEMORY, "decoder.decoder_layers.{i}"),
    (FILES, "decoder.decoder_encoder.layer.{i}"),
)
DECODER_BLOCK = [
    Name(f"decoder.{row.ours}", tuple(part.replace(old, new, 1) for part in row.theirs))
    for old, new in STEMS
    for row in VIT_BLOCK
    if row.theirs[0].startswith(f"{old}.")
]


def recognises(names: frozenset[str]) -> bool:
    """A ViT's embeddings beside ``decoder.decoder_embed``."""
    return {"vit.embeddings.patch_embeddings.projection.weight", "decoder.decoder_embed.weight"} <= names


def table(depth: int, decoder_depth: int) -> list[Name]:
    """Every name of a model of these depths."""
    encoder = expand([*ENCODER, *VIT_BLOCK], depth)
    return [*behind(encoder, "encoder.", "vit."), *DECODER, *expand(DECODER_BLOCK, decoder_depth)]


def read(raw: Raw) -> Translated:
    """A Transformers checkpoint of an MAE in our words."""
    account = Account(str(raw.path), FORMAT.name)
    config = raw.config
    declared = config.get("model_type", "vit_mae")
    if declared != "vit_mae":
        raise CheckpointError(f"{raw.path}: config.json says {declared!r}, but the tensors are those of 'vit_mae'")
    if config.get("hidden_act") not in ACTIVATIONS:
        raise CheckpointError(f"{raw.path}: the activation {config['hidden_act']!r} is not the exact GELU")
    rows = table(
        blocks_in(raw.tensors, r"vit\.(?:encoder\.layer|layers)\.(\d+)\."),
        blocks_in(raw.tensors, r"decoder\.decoder_(?:layers|encoder\.layer)\.(\d+)\."),
    )
    state = translate(raw.tensors, rows, {}, account)
    hints = Hints(
        norm_eps=float(config.get("layer_norm_eps", FAMILIES["vit"].norm_eps)),
        pos_resize="bicubic",
        num_heads=config.get("num_attention_heads"),
        img_size=None if "image_size" not in config else _pair(config["image_size"]),
    )
    found = infer_autoencoder(state, hints, config.get("decoder_num_attention_heads"), account)
    return Translated(replace(found, mask_ratio=float(config.get("mask_ratio", found.mask_ratio))), state, account)


def _pair(size: int | list[int]) -> tuple[int, int]:
    return as_pair(size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def for_transformers(
    config: MAEConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Written:
    """A folder for ``ViTMAEForPreTraining.from_pretrained``.

    Raises:
        CheckpointError: pictures or patches that are not square.
    """
    size, patch = as_pair(config.img_size), as_pair(config.patch_size)
    if len({*size}) + len({*patch}) > 2:
        raise CheckpointError("Transformers has no MAE of pictures or patches that are not square")
    written: dict[str, Any] = {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": int(config.embed_dim * config.mlp_ratio),
        "decoder_hidden_size": config.decoder_embed_dim,
        "decoder_num_hidden_layers": config.decoder_depth,
        "decoder_num_attention_heads": config.decoder_num_heads,
        "decoder_intermediate_size": int(config.decoder_embed_dim * config.decoder_mlp_ratio),
        "image_size": size[0],
        "patch_size": patch[0],
        "num_channels": config.in_channels,
        "mask_ratio": config.mask_ratio,
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": True,
        "dtype": "float32",
    }
    tensors = rename(state, table(config.depth, config.decoder_depth))
    return tensors, {"config.json": written, "preprocessor_config.json": to_transformers(preprocess)}


FORMAT = Format("Transformers (vit_mae)", recognises, read)
