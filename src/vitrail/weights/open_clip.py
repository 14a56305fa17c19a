"""OpenAI's naming of CLIP, which open_clip shares, and open_clip's of SigLIP.

A pair is put together from either kind of image tower (CLIP's own under ``visual``, timm's under ``visual.trunk``) and
a text tower at the top or under ``text``. Which GELU a pair was trained with is nowhere in the tensors: OpenAI's files
are known by the numbers that they hold besides weights, open_clip's say it in ``open_clip_config.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vitrail.nn.activation import ActivationName
from vitrail.weights import timm
from vitrail.weights.account import Account
from vitrail.weights.files import Raw
from vitrail.weights.infer_clip import (
    TextHints,
    TowerHints,
    as_number,
    as_row,
    authors_preprocess,
    infer_pair,
    numbers,
    tokenizer_files,
    transposed,
)
from vitrail.weights.names import Format, Name, Translated, blocks_in, both, expand, translate

TRUNK = "visual.trunk."
OPENAI = ("input_resolution", "context_length", "vocab_size")
DROPS = {
    "|".join(OPENAI): "a number that the shapes tell",
    r"(text\.)?attn_mask": "the causal mask, made anew",
}


def _blocks(ours: str, theirs: str, depth: int) -> list[Name]:
    layer, block = f"{theirs}transformer.resblocks.{{i}}", f"{ours}blocks.{{i}}"
    rows = [
        *both(f"{block}.norm1", f"{layer}.ln_1"),
        Name(f"{block}.attn.qkv.weight", (f"{layer}.attn.in_proj_weight",)),
        Name(f"{block}.attn.qkv.bias", (f"{layer}.attn.in_proj_bias",)),
        *both(f"{block}.attn.proj", f"{layer}.attn.out_proj"),
        *both(f"{block}.norm2", f"{layer}.ln_2"),
        *both(f"{block}.mlp.fc1", f"{layer}.mlp.c_fc"),
        *both(f"{block}.mlp.fc2", f"{layer}.mlp.c_proj"),
    ]
    return expand(rows, depth)


def _image_rows(depth: int) -> list[Name]:
    return [
        Name("image.cls_token", ("visual.class_embedding",), as_row),
        Name("image.pos_embed", ("visual.positional_embedding",), as_row),
        *both("image.patch_embed.proj", "visual.conv1"),
        *both("image.norm_pre", "visual.ln_pre"),
        *both("image.norm", "visual.ln_post"),
        *_blocks("image.", "visual.", depth),
        Name("image_proj.weight", ("visual.proj",), transposed),
    ]


def _trunk_rows(depth: int) -> list[Name]:
    rows = [*both("norm_pre", "norm_pre"), *timm.table(depth, gated=False)]
    return [
        *(Name(f"image.{row.ours}", tuple(TRUNK + part for part in row.theirs), row.join) for row in rows),
        Name("image_proj.weight", ("visual.head.proj.weight",)),
    ]


def _text_rows(prefix: str, depth: int) -> list[Name]:
    return [
        Name("text.token_embed.weight", (f"{prefix}token_embedding.weight",)),
        Name("text.pos_embed", (f"{prefix}positional_embedding",), as_row),
        *_blocks("text.", prefix, depth),
        *both("text.norm", f"{prefix}ln_final"),
        Name("text_proj.weight", (f"{prefix}text_projection",), transposed),
        *both("text_proj", f"{prefix}text_projection"),
        Name("logit_scale", ("logit_scale",), as_number),
        Name("logit_bias", ("logit_bias",), as_number),
    ]


def recognises(names: frozenset[str]) -> bool:
    """An image tower under ``visual`` that is a transformer."""
    own = {"visual.conv1.weight", "visual.class_embedding"} <= names
    return own or f"{TRUNK}patch_embed.proj.weight" in names


def read(raw: Raw) -> Translated:
    """A pair in our words."""
    names = raw.tensors.keys()
    account = Account(str(raw.path), FORMAT.name)
    trunk = f"{TRUNK}patch_embed.proj.weight" in names
    prefix = "text." if "text.token_embedding.weight" in names else ""
    image = (
        _trunk_rows(blocks_in(names, r"visual\.trunk\.blocks\.(\d+)\."))
        if trunk
        else _image_rows(blocks_in(names, r"visual\.transformer\.resblocks\.(\d+)\."))
    )
    text_depth = blocks_in(names, prefix.replace(".", r"\.") + r"transformer\.resblocks\.(\d+)\.")
    state = translate(raw.tensors, [*image, *_text_rows(prefix, text_depth)], DROPS, account)
    model = numbers(raw.beside("open_clip_config.json"), "model_cfg")
    vision, words = numbers(model, "vision_cfg"), numbers(model, "text_cfg")
    siglip = "image.attn_pool.latent" in state
    hints = TowerHints(
        activation=_activation(raw, model, siglip, account),
        norm_eps=1e-6 if siglip else 1e-5,
        pos_resize="bicubic_antialias",
        num_heads=_heads(vision),
        img_size=vision.get("image_size"),
    )
    config = infer_pair(state, hints, TextHints(num_heads=words.get("heads")), account)
    return Translated(config, state, account, (), authors_preprocess(config), tokenizer_files(raw))


def _heads(vision: Mapping[str, Any]) -> int | None:
    """open_clip gives the width of a head (64 when it says nothing), of a pair's own image tower."""
    width, head = vision.get("width"), vision.get("head_width", 64)
    return int(width) // int(head) if isinstance(width, int) else None


def _activation(raw: Raw, model: Mapping[str, Any], siglip: bool, account: Account) -> ActivationName:
    if siglip:
        return "gelu_tanh"
    if model:
        return "quick_gelu" if model.get("quick_gelu") else "gelu"
    # OpenAI's matrices are stored in half precision.
    if any(name in raw.tensors for name in OPENAI) or raw.tensors["visual.conv1.weight"].dtype == torch.float16:
        return "quick_gelu"
    account.notes.append(
        "which GELU the pair was trained with does not stand in the checkpoint: assumed is OpenAI's (quick_gelu); "
        "for weights that open_clip trained give activation='gelu', or put their open_clip_config.json beside them"
    )
    return "quick_gelu"


FORMAT = Format("OpenAI CLIP and open_clip", recognises, read)
