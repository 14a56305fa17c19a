"""Transformers' naming of CLIP and SigLIP: the pairs, and image towers alone.

Files and modules in memory have the same names, but that the image tower alone has a prefix in old files and none in
new ones. SigLIP's pooling head is PyTorch's attention: one matrix for queries, keys and values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vitrail.models import DualEncoderConfig, ImageTowerConfig
from vitrail.nn.activation import ActivationName
from vitrail.nn.embed import as_pair
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.hf import classes_of
from vitrail.weights.infer_clip import (
    TextHints,
    TowerHints,
    as_number,
    as_row,
    authors_preprocess,
    infer_pair,
    infer_tower,
    numbers,
    tokenizer_files,
)
from vitrail.weights.names import Format, Name, State, Translated, blocks_in, both, expand, rename, translate

PATCHES = "embeddings.patch_embedding.weight"
VISION, TEXT = "vision_model.", "text_model."
ACTIVATION_NAMES: dict[str, ActivationName] = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
DROPS = {r"(vision_model\.|text_model\.)?embeddings\.position_ids": "the numbers of the positions, counted anew"}
IN_PROJ = "head.attention.in_proj_"


def _blocks(ours: str, theirs: str, depth: int) -> list[Name]:
    layer, block = f"{theirs}encoder.layers.{{i}}", f"{ours}blocks.{{i}}"
    rows = [
        *both(f"{block}.norm1", f"{layer}.layer_norm1"),
        *both(f"{block}.attn.qkv", tuple(f"{layer}.self_attn.{part}_proj" for part in "qkv")),
        *both(f"{block}.attn.proj", f"{layer}.self_attn.out_proj"),
        *both(f"{block}.norm2", f"{layer}.layer_norm2"),
        *both(f"{block}.mlp.fc1", f"{layer}.mlp.fc1"),
        *both(f"{block}.mlp.fc2", f"{layer}.mlp.fc2"),
    ]
    return expand(rows, depth)


def _image_rows(ours: str, theirs: str, depth: int) -> list[Name]:
    pool, head = f"{ours}attn_pool", f"{theirs}head"
    return [
        Name(f"{ours}cls_token", (f"{theirs}embeddings.class_embedding",), as_row),
        Name(f"{ours}pos_embed", (f"{theirs}embeddings.position_embedding.weight",), as_row),
        *both(f"{ours}patch_embed.proj", f"{theirs}embeddings.patch_embedding"),
        *both(f"{ours}norm_pre", f"{theirs}pre_layrnorm"),  # So it is spelt there.
        *both(f"{ours}norm", f"{theirs}post_layernorm"),
        *_blocks(ours, theirs, depth),
        Name(f"{pool}.latent", (f"{head}.probe",), as_row),
        *both(f"{pool}.q", f"{head}.attention.q"),
        *both(f"{pool}.kv", f"{head}.attention.kv"),
        *both(f"{pool}.proj", f"{head}.attention.out_proj"),
        *both(f"{pool}.norm", f"{head}.layernorm"),
        *both(f"{pool}.mlp.fc1", f"{head}.mlp.fc1"),
        *both(f"{pool}.mlp.fc2", f"{head}.mlp.fc2"),
    ]


def _pair_rows(depth: int, text_depth: int) -> list[Name]:
    return [
        *_image_rows("image.", VISION, depth),
        Name("text.token_embed.weight", (f"{TEXT}embeddings.token_embedding.weight",)),
        Name("text.pos_embed", (f"{TEXT}embeddings.position_embedding.weight",), as_row),
        *_blocks("text.", TEXT, text_depth),
        *both("text.norm", f"{TEXT}final_layer_norm"),
        *both("text_proj", f"{TEXT}head"),
        Name("text_proj.weight", ("text_projection.weight",)),
        Name("image_proj.weight", ("visual_projection.weight",)),
        Name("logit_scale", ("logit_scale",), as_number),
        Name("logit_bias", ("logit_bias",), as_number),
    ]


def recognises(names: frozenset[str]) -> bool:
    """The patch projection's name, at the top or in the image tower of a pair."""
    return PATCHES in names or VISION + PATCHES in names


def read(raw: Raw) -> Translated:
    """A pair, or an image tower alone, in our words."""
    prefix = VISION if VISION + PATCHES in raw.tensors else ""
    layers = r"encoder\.layers\.(\d+)\."
    depth = blocks_in(raw.tensors, prefix.replace(".", r"\.") + layers)
    text_depth = blocks_in(raw.tensors, TEXT.replace(".", r"\.") + layers)
    siglip = f"{prefix}embeddings.class_embedding" not in raw.tensors
    account = Account(str(raw.path), f"Transformers ({'siglip' if siglip else 'clip'})")
    if "classifier.weight" in raw.tensors:
        return _read_classifier(raw, prefix, depth, siglip, account)
    tensors = _pool_split(raw.tensors, prefix)
    rows = _pair_rows(depth, text_depth) if text_depth else _image_rows("", prefix, depth)
    state = translate(tensors, rows, DROPS | PROJECTIONS if not text_depth else DROPS, account)
    _account_for_pool(account, prefix)
    vision = numbers(raw.config, "vision_config") or raw.config
    hints = _hints(vision, siglip, str(raw.path))
    if not text_depth:
        config = infer_tower(state, hints, account)
        return Translated(config, state, account, preprocess=authors_preprocess(config))
    words = numbers(raw.config, "text_config")
    _require_agreement(vision, words, siglip, account.source)
    table = state.get("text.token_embed.weight")
    text = _text_hints(words, 0 if table is None else table.shape[0], siglip)
    pair = infer_pair(state, hints, text, account)
    return Translated(pair, state, account, (), authors_preprocess(pair), tokenizer_files(raw))


def _read_classifier(raw: Raw, prefix: str, depth: int, siglip: bool, account: Account) -> Translated:
    """An image tower with a classifier, which reads the mean over the tokens of the last hidden state.

    In SigLIP these have been through the last norm, and are the patches: the pool of the pair is not used. In CLIP they
    have not, and nothing else here reads such tokens.
    """
    if not siglip:
        raise CheckpointError(
            f"{account.source}: Transformers' classifier on CLIP reads the mean of the patches before the last norm, "
            "which no image tower here does: load a CLIPModel or CLIPVisionModel and train a head on it"
        )
    rows = [row for row in _image_rows("", prefix, depth) if not row.ours.startswith("attn_pool.")]
    unread = {rf"{re.escape(prefix)}head\..*": "the attention pool, which Transformers' classifier does not read"}
    state = translate(raw.tensors, [*rows, *both("head", "classifier")], DROPS | unread, account)
    vision = numbers(raw.config, "vision_config") or raw.config
    config = infer_tower(state, replace(_hints(vision, siglip, account.source), pool="mean"), account)
    return Translated(config, state, account, classes_of(raw.config), authors_preprocess(config))


PROJECTIONS = {
    r"visual_projection\.weight": "the projection into the space of a pair, whose other half is not in the file",
    r"logit_(scale|bias)": "the temperature of a pair",
}


def _hints(vision: Mapping[str, Any], siglip: bool, source: str) -> TowerHints:
    act = str(vision.get("hidden_act", "gelu_pytorch_tanh" if siglip else "quick_gelu"))
    if act not in ACTIVATION_NAMES:
        known = ", ".join(ACTIVATION_NAMES)
        raise CheckpointError(f"{source}: its activation {act!r} is not known; known are {known}")
    size = vision.get("image_size")
    return TowerHints(
        activation=ACTIVATION_NAMES[act],
        norm_eps=float(vision.get("layer_norm_eps", 1e-6 if siglip else 1e-5)),
        pos_resize="bicubic",
        num_heads=vision.get("num_attention_heads"),
        img_size=size if size is None or isinstance(size, int) else (int(size[0]), int(size[1])),
    )


def _require_agreement(vision: Mapping[str, Any], words: Mapping[str, Any], siglip: bool, source: str) -> None:
    """Both towers must be of one kind."""
    defaults = {
        "hidden_act": "gelu_pytorch_tanh" if siglip else "quick_gelu",
        "layer_norm_eps": 1e-6 if siglip else 1e-5,
    }
    for key, default in defaults.items():
        one, other = vision.get(key, default), words.get(key, default)
        if one != other:
            raise CheckpointError(f"{source}: {key} is {one} in its image tower, {other} in its text tower")


def _text_hints(words: Mapping[str, Any], vocab: int, siglip: bool) -> TextHints:
    heads = words.get("num_attention_heads")
    if siglip:  # What stands there as the end is CLIP's, and wrong.
        return TextHints(num_heads=heads, pad_token=_inside(words.get("pad_token_id"), vocab))
    end = words.get("eos_token_id")
    # CLIP's first files give 2, and mean the highest number.
    return TextHints(num_heads=heads, end_token=None if end == 2 else _inside(end, vocab))


def _inside(number: object, vocab: int) -> int | None:
    return number if isinstance(number, int) and 0 <= number < vocab else None


# ---------------------------------------------------------------------- the pooling head, which is one matrix there


def _pool_split(tensors: Mapping[str, Tensor], prefix: str) -> State:
    out = dict(tensors)
    for kind in ("weight", "bias"):
        joint = out.pop(f"{prefix}{IN_PROJ}{kind}", None)
        if joint is not None:
            dim = joint.shape[0] // 3
            out[f"{prefix}head.attention.q.{kind}"] = joint[:dim]
            out[f"{prefix}head.attention.kv.{kind}"] = joint[dim:]
    return out


def _account_for_pool(account: Account, prefix: str) -> None:
    for kind in ("weight", "bias"):
        parts = [account.translated.pop(f"{prefix}head.attention.{part}.{kind}", None) for part in ("q", "kv")]
        found = [part for part in parts if part is not None]
        if found:
            account.translated[f"{prefix}{IN_PROJ}{kind}"] = "+".join(found)


# ---------------------------------------------------------------------- writing


def write_pair(config: DualEncoderConfig, state: Mapping[str, Tensor]) -> State:
    """Our weights under the names of Transformers' files.

    Raises:
        CheckpointError: a pair that Transformers does not have.
    """
    siglip = kind_of(config) == "siglip"
    ours = {name: tensor for name, tensor in state.items() if not name.startswith("logit_")}
    rows = [row for row in _pair_rows(config.depth, config.text_depth) if siglip or f"{TEXT}head" not in row.theirs[0]]
    out = rename(ours, rows)
    for kind in ("weight", "bias"):
        if siglip:
            parts = [out.pop(f"{VISION}head.attention.{part}.{kind}") for part in ("q", "kv")]
            out[f"{VISION}{IN_PROJ}{kind}"] = torch.cat(parts)
    for name in (f"{VISION}embeddings.position_embedding.weight", f"{TEXT}embeddings.position_embedding.weight"):
        out[name] = out[name][0]
    token = f"{VISION}embeddings.class_embedding"
    if token in out:
        out[token] = out[token].flatten()
    shape = (1,) if siglip else ()
    return out | {name: t.reshape(shape).clone() for name, t in state.items() if name.startswith("logit_")}


def kind_of(config: DualEncoderConfig) -> str:
    """``model_type`` of the family of Transformers that has this pair.

    Raises:
        CheckpointError: none has.
    """
    common = (config.embed_norm, config.class_token, config.image_projection, config.text_causal)
    clip = common == (True,) * 4 and (config.pool, config.text_pool, config.loss) == ("class", "end", "softmax")
    siglip = common == (False,) * 4 and (config.pool, config.text_pool, config.loss) == ("attention", "last", "sigmoid")
    square = len({*as_pair(config.img_size)}) == 1 and len({*as_pair(config.patch_size)}) == 1
    if square and not config.pool_norm:
        if clip and not config.text_projection_bias:
            return "clip"
        if siglip and config.text_projection_bias:
            return "siglip"
    raise CheckpointError("Transformers has no pair of this architecture: it has those of CLIP and of SigLIP")


def pair_json(config: DualEncoderConfig) -> dict[str, Any]:
    """Transformers' ``config.json`` for a pair."""
    kind = kind_of(config)
    common = {"hidden_act": _act(config), "layer_norm_eps": config.norm_eps}
    vision = {
        "model_type": f"{kind}_vision_model",
        "hidden_size": config.embed_dim,
        "intermediate_size": int(config.embed_dim * config.mlp_ratio),
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_channels": config.in_channels,
        "image_size": as_pair(config.img_size)[0],
        "patch_size": as_pair(config.patch_size)[0],
        **common,
    }
    text = {
        "model_type": f"{kind}_text_model",
        "hidden_size": config.text_dim,
        "intermediate_size": int(config.text_dim * config.text_mlp_ratio),
        "num_hidden_layers": config.text_depth,
        "num_attention_heads": config.text_heads,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "eos_token_id": config.end_token,
        "bos_token_id": max(0, config.vocab_size - 2),
        "pad_token_id": config.pad_token,
        **common,
    }
    out: dict[str, Any] = {"model_type": kind, "dtype": "float32"}
    if kind == "clip":
        vision |= {"projection_dim": config.joint_dim}
        text |= {"projection_dim": config.joint_dim}
        out |= {"architectures": ["CLIPModel"], "projection_dim": config.joint_dim}
    else:
        text |= {"projection_size": config.joint_dim}
        out |= {"architectures": ["SiglipModel"]}
    return out | {"vision_config": vision, "text_config": text}


def _act(config: ImageTowerConfig) -> str:
    return next(theirs for theirs, ours in ACTIVATION_NAMES.items() if ours == config.activation)


FORMAT = Format("Transformers CLIP and SigLIP", recognises, read)
