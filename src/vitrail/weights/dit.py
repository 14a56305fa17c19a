"""DiT: the authors' own files (``.pt``) and diffusers' naming, and its weights for another size or other classes.

diffusers repeats timestep and class embedding in every block. They are copies of one another in every file that was
converted from the authors'; a file in which they differ holds another model. Two of its numbers are not the authors'
either, and are not taken over: the epsilon of the second norm (1e-5 for 1e-6) and the spacing of the timestep's
frequencies (over 127 for 128 of them).

There is no writer: neither timm nor Transformers has the family.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitrail.data.preprocess import Preprocess
from vitrail.models.dit import DiTConfig
from vitrail.nn.embed import as_pair
from vitrail.nn.position import sincos_2d
from vitrail.weights.account import Account
from vitrail.weights.adapt import TRAINING, Adaptation, drop
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.infer import HEADS_BY_WIDTH
from vitrail.weights.names import Format, Name, State, Translated, blocks_in, both, expand, translate

AUTHORS = [
    *both("patch_embed.proj", "x_embedder.proj"),
    Name("pos_embed", ("pos_embed",)),
    *both("time_embed.fc1", "t_embedder.mlp.0"),
    *both("time_embed.fc2", "t_embedder.mlp.2"),
    Name("label_embed.table.weight", ("y_embedder.embedding_table.weight",)),
    *(
        row
        for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        for row in both(f"blocks.{{i}}.{part}", f"blocks.{{i}}.{part}")
    ),
    *both("blocks.{i}.modulation", "blocks.{i}.adaLN_modulation.1"),
    *both("final.modulation", "final_layer.adaLN_modulation.1"),
    *both("final.linear", "final_layer.linear"),
]

LAYER, EMBED = "transformer_blocks.{i}", "transformer_blocks.0.norm1.emb"
DIFFUSERS = [
    *both("patch_embed.proj", "pos_embed.proj"),
    Name("pos_embed", ("pos_embed.pos_embed",)),
    *both("time_embed.fc1", f"{EMBED}.timestep_embedder.linear_1"),
    *both("time_embed.fc2", f"{EMBED}.timestep_embedder.linear_2"),
    Name("label_embed.table.weight", (f"{EMBED}.class_embedder.embedding_table.weight",)),
    *both("blocks.{i}.attn.qkv", tuple(f"{LAYER}.attn1.to_{part}" for part in "qkv")),
    *both("blocks.{i}.attn.proj", f"{LAYER}.attn1.to_out.0"),
    *both("blocks.{i}.mlp.fc1", f"{LAYER}.ff.net.0.proj"),
    *both("blocks.{i}.mlp.fc2", f"{LAYER}.ff.net.2"),
    *both("blocks.{i}.modulation", f"{LAYER}.norm1.linear"),
    *both("final.modulation", "proj_out_1"),
    *both("final.linear", "proj_out_2"),
]
COPIES = r"transformer_blocks\.(\d+)\.norm1\.emb\.(.+)"
DROPS = {r"transformer_blocks\.[1-9]\d*\.norm1\.emb\..+": "a copy of the first block's"}

USUAL_SIZE = 32
"""Values on a side of the latents where a file does not say: pictures of 256 pixels."""


def recognises_authors(names: frozenset[str]) -> bool:
    """A table of classes and adaLN's linear layer inside a ``Sequential``."""
    return {"y_embedder.embedding_table.weight", "blocks.0.adaLN_modulation.1.weight"} <= names


def recognises_diffusers(names: frozenset[str]) -> bool:
    """A table of classes in the first block's norm."""
    return {f"{EMBED}.class_embedder.embedding_table.weight", "proj_out_2.weight"} <= names


def read_authors(raw: Raw) -> Translated:
    """A checkpoint of the authors, or of one who kept their names, in our words."""
    account = Account(str(raw.path), "DiT by its authors")
    depth = blocks_in(raw.tensors, r"blocks\.(\d+)\.")
    state = translate(raw.tensors, expand(AUTHORS, depth), {}, account)
    return _translated(state, raw.config, account)


def read_diffusers(raw: Raw) -> Translated:
    """diffusers' ``DiTTransformer2DModel`` in our words."""
    account = Account(str(raw.path), "DiT in diffusers")
    _require_copies(raw)
    depth = blocks_in(raw.tensors, r"transformer_blocks\.(\d+)\.")
    state = translate(raw.tensors, expand(DIFFUSERS, depth), DROPS, account)
    if "pos_embed" not in state and "patch_embed.proj.weight" in state:
        side = int(raw.config.get("sample_size") or USUAL_SIZE)
        dim, _, *patch = state["patch_embed.proj.weight"].shape
        state["pos_embed"] = sincos_2d(dim, tuple(side // step for step in patch))
        account.missing["pos_embed"] = f"sine-cosine positions, computed for latents of {side}x{side}"
    return _translated(state, raw.config, account)


def _require_copies(raw: Raw) -> None:
    for name, tensor in raw.tensors.items():
        found = re.fullmatch(COPIES, name)
        first = raw.tensors.get(f"{EMBED}.{found[2]}") if found else None
        if first is not None and not torch.equal(first, tensor):
            raise CheckpointError(
                f"{raw.path}: {name} differs from the first block's: a DiT has one embedding of timesteps and classes "
                "for all blocks, so this is another model"
            )


REQUIRED = (
    *("patch_embed.proj.weight", "pos_embed", "time_embed.fc1.weight", "label_embed.table.weight"),
    *("blocks.0.mlp.fc1.weight", "final.linear.weight"),
)


def _translated(state: State, beside: Mapping[str, Any], account: Account) -> Translated:
    absent = [name for name in REQUIRED if name not in state]
    if absent:
        raise CheckpointError(f"{account.source}: incomplete: there is nothing that could be {', '.join(absent)}")
    config = _infer(state, beside, account)
    # Latents are no pictures: nothing is normalised.
    bands = config.in_channels
    preprocess = Preprocess(size=as_pair(config.img_size), crop=1.0, mean=(0.0,) * bands, std=(1.0,) * bands)
    return Translated(config, state, account, preprocess=preprocess)


def _infer(state: Mapping[str, Tensor], beside: Mapping[str, Any], account: Account) -> DiTConfig:
    source, projection = account.source, state["patch_embed.proj.weight"]
    if projection.ndim != 4:
        raise CheckpointError(f"{source}: the patch projection has shape {tuple(projection.shape)}, not 4 dimensions")
    dim, channels, height, width = projection.shape
    out, rest = divmod(state["final.linear.weight"].shape[0], height * width)
    if rest or out not in (channels, 2 * channels):
        raise CheckpointError(
            f"{source}: the last layer gives {state['final.linear.weight'].shape[0]} values, which is neither noise "
            f"nor noise and variance for patches of {height}x{width} with {channels} channels"
        )
    rows = state["pos_embed"].shape[1]
    side = math.isqrt(rows)
    if side * side != rows:
        raise CheckpointError(f"{source}: the position table has {rows} rows, which is no square grid")
    heads = beside.get("num_attention_heads") or beside.get("num_heads") or _heads(dim, account)
    return DiTConfig(
        img_size=side * height if height == width else (side * height, side * width),
        in_channels=channels,
        num_classes=state["label_embed.table.weight"].shape[0] - 1,
        patch_size=height if height == width else (height, width),
        embed_dim=dim,
        depth=blocks_in(state, r"blocks\.(\d+)\."),
        num_heads=int(heads),
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        frequencies=state["time_embed.fc1.weight"].shape[1],
        learn_sigma=out == 2 * channels,
    )


def _heads(dim: int, account: Account) -> int:
    heads = HEADS_BY_WIDTH.get(dim)
    if heads is None:
        raise CheckpointError(
            f"{account.source}: how many heads {dim}-wide tokens have does not follow from the shapes: put a "
            "config.json with num_heads beside the file"
        )
    account.assume("num_heads", f"num_heads is not in the file: {heads} assumed (width / {dim // heads})")
    return heads


def _fit(state: State, source: DiTConfig, target: DiTConfig, account: Account) -> None:
    if source.grid != target.grid:
        state["pos_embed"] = sincos_2d(target.embed_dim, target.grid)
        old, new = ("×".join(map(str, grid)) for grid in (source.grid, target.grid))
        account.changed["pos_embed"] = f"sine-cosine positions of grid {old} computed for {new}"
    if source.num_classes != target.num_classes:
        drop(state, ["label_embed.table.weight"], account)


ADAPTATION = Adaptation(
    from_the_file=frozenset({"num_classes", "learn_sigma", "mlp_ratio", "frequencies"}),
    adaptable=TRAINING | {"img_size", "num_classes", "label_dropout"},
    fit=_fit,
)

FORMATS = (
    Format("DiT by its authors", recognises_authors, read_authors),
    Format("DiT in diffusers", recognises_diffusers, read_diffusers),
)
