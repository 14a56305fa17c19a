"""timm's naming, which is ours: also the authors' files of DeiT, DeiT III, DINO (backbone only) and fine-tuned MAE.

timm's register models and DeiT III have no position for the class token (it is added into ``cls_token``): such files
are read as they are, with ``class_position=False``. Others of timm's (``vit_so150m_*``) keep rows for their registers
in the position table: these are constants, and go into the registers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitrail.heads import PoolName
from vitrail.models import ModelConfig, ViTConfig
from vitrail.nn.embed import as_pair
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.infer import Hints, infer_config
from vitrail.weights.names import Format, Name, State, Translated, blocks_in, both, expand, rename, translate
from vitrail.weights.timm_names import arguments_of, heads_of_name, require_readable

TOP = [
    *(Name(name, (name,)) for name in ("cls_token", "dist_token", "reg_token", "mask_token", "pos_embed")),
    *both("patch_embed.proj", "patch_embed.proj"),
    *both("norm", "norm"),
    *both("fc_norm", "fc_norm"),
    *both("head", "head"),
    *both("head_dist", "head_dist"),
    Name("attn_pool.latent", ("attn_pool.latent",)),
    *(
        row
        for part in ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2")
        for row in both(f"attn_pool.{part}", f"attn_pool.{part}")
    ),
]
BLOCK = [
    *(
        row
        for part in ("norm", "norm1", "attn.qkv", "attn.q_norm", "attn.k_norm", "attn.proj", "norm2")
        for row in both(f"blocks.{{i}}.{part}", f"blocks.{{i}}.{part}")
    ),
    *(
        Name(f"blocks.{{i}}.ls{n}.gamma", (theirs,))
        for n in (1, 2)
        for theirs in (f"blocks.{{i}}.ls{n}.gamma", f"blocks.{{i}}.gamma_{n}")
    ),
]
PLAIN_MLP = [row for part in ("fc1", "fc2") for row in both(f"blocks.{{i}}.mlp.{part}", f"blocks.{{i}}.mlp.{part}")]
GATED_MLP = [
    row
    for ours, theirs in (("w12", "fc1"), ("w3", "fc2"), ("w12", "w12"), ("w3", "w3"))
    for row in both(f"blocks.{{i}}.mlp.{ours}", f"blocks.{{i}}.mlp.{theirs}")
]
"""timm packs the gate and the value of SwiGLU under the names of a plain MLP; DINOv2's own names are read too."""

DROPS = {r"pre_logits\..*": "the tanh layer of the first ViT, which no current model has"}

POOLS_OF_TIMM: dict[str, PoolName] = {"token": "class", "avg": "mean", "map": "attention"}
NAME_OF_POOL = {ours: theirs for theirs, ours in POOLS_OF_TIMM.items()}


def recognises(names: frozenset[str]) -> bool:
    """Joint ``qkv`` under ``blocks.{i}.attn`` and a patch projection, and nothing that only others have."""
    return {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= names and "register_tokens" not in names


def table(depth: int, gated: bool) -> list[Name]:
    """Every name of a model of that depth."""
    return expand([*TOP, *BLOCK, *(GATED_MLP if gated else PLAIN_MLP)], depth)


def read(raw: Raw) -> Translated:
    """A timm checkpoint in our words.

    Raises:
        CheckpointError: as :func:`~vitrail.weights.timm_names.require_readable` does, and for what is no such model.
    """
    require_readable(raw)
    account = Account(str(raw.path), FORMAT.name)
    depth = blocks_in(raw.tensors, r"blocks\.(\d+)\.")
    state = translate(raw.tensors, table(depth, is_gated(raw.tensors)), DROPS, account)
    hints = hints_of(raw)
    _split_register_positions(state, hints, account)
    found = Translated(infer_config(state, hints, account), state, account, classes_of(raw.config))
    if not raw.config:
        _note_doubts(state, account)
    return found


def _split_register_positions(state: State, hints: Hints, account: Account) -> None:
    """Registers with rows in the position table: the rows are added to the registers, as every pass does there."""
    if not {"reg_token", "pos_embed", "patch_embed.proj.weight"} <= state.keys():
        return
    rows, registers = state["pos_embed"].shape[1], state["reg_token"].shape[1]
    first = ("cls_token" in state) + ("dist_token" in state)
    if _rows_before_patches((first, 0, first + registers), rows, state, hints) != first + registers:
        return
    before, own, patches = state["pos_embed"].split([first, registers, rows - first - registers], dim=1)
    state["reg_token"] = state["reg_token"] + own
    state["pos_embed"] = torch.cat([before, patches], dim=1)
    account.changed["reg_token"] = "their rows of the position table were added to them"
    account.changed["pos_embed"] = f"the rows of the {registers} registers were taken out, into the registers"


def _rows_before_patches(prefixes: tuple[int, ...], rows: int, state: State, hints: Hints) -> int | None:
    """Which of the prefixes a table of so many rows has: by the size told, else the first that leaves a square."""
    if hints.img_size is not None:
        height, width = state["patch_embed.proj.weight"].shape[2:]
        told = rows - (hints.img_size[0] // height) * (hints.img_size[1] // width)
        if told in prefixes:
            return told
    return next((p for p in prefixes if rows > p and math.isqrt(rows - p) ** 2 == rows - p), None)


def _note_doubts(state: State, account: Account) -> None:
    """What a file without ``config.json`` might be as well."""
    tokens = {"cls_token", "reg_token", "blocks.0.attn.qkv.bias", "blocks.0.ls1.gamma"}
    if "fc_norm.weight" in state and not tokens & state.keys():
        account.assume(
            "block",
            "assumed: norms before attention and MLP; timm's vit_*_rpn_*, which has them behind, has the same tensors "
            "and cannot be had here",
        )
    if "attn_pool.latent" in state and "cls_token" not in state:
        account.assume(
            "activation",
            "the activation does not stand in the checkpoint: assumed is the exact GELU, which timm's first SigLIP "
            "towers have; ask for an image tower by its name for the tanh form",
        )


def is_gated(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the MLPs are SwiGLU, under its own names or those of a plain MLP."""
    if "blocks.0.mlp.w12.weight" in tensors:
        return True
    first, second = (tensors.get(f"blocks.0.mlp.{part}.weight") for part in ("fc1", "fc2"))
    return first is not None and second is not None and first.shape[0] == 2 * second.shape[1]


def hints_of(raw: Raw) -> Hints:
    """What timm's ``config.json`` tells and shapes do not."""
    config = raw.config
    pool = POOLS_OF_TIMM.get(str(config.get("global_pool", "")))
    return Hints(
        num_heads=heads_of_name(raw),
        img_size=img_size_of(config),
        pool=pool if pool != "attention" or "attn_pool.latent" in raw.tensors else None,
    )


def img_size_of(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Pixels that timm's ``config.json`` says the model is made for."""
    arguments = arguments_of(config)
    size = arguments.get("img_size") or config.get("pretrained_cfg", {}).get("input_size", (None, None, None))[1:]
    sides = as_pair(size) if isinstance(size, int) else tuple(size)
    return (int(sides[0]), int(sides[1])) if None not in sides else None


def classes_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The class names in timm's ``config.json``, empty when there are none."""
    names = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names") or ()
    return tuple(str(name) for name in names)


def write(config: ViTConfig, state: Mapping[str, Tensor], account: Account) -> State:
    """Our weights as the state dict that timm's model of this architecture takes with ``strict=True``.

    Raises:
        CheckpointError: an architecture that timm's VisionTransformer does not have.
    """
    if config.block != "pre_norm" or config.norm != "layer" or config.pool == "class_mean":
        raise CheckpointError(
            "timm's VisionTransformer has neither parallel blocks of these names, nor RMS norms, nor a pool of class "
            "token and mean"
        )
    ours = dict(state)
    for name in ("mask_token",):
        if ours.pop(name, None) is not None:
            account.dropped[name] = "timm's VisionTransformer has no mask token"
    if config.registers and config.class_token and config.class_position:
        # timm's register models have no row for the class token: it is a constant, so it goes into the token.
        table_, prefix = ours["pos_embed"], 1 + config.distilled
        ours["cls_token"] = ours["cls_token"] + table_[:, :1]
        if config.distilled:
            ours["dist_token"] = ours["dist_token"] + table_[:, 1:2]
        ours["pos_embed"] = table_[:, prefix:].contiguous()
        account.changed["cls_token"] = "its position was added into it, as timm's register models want"
    return rename(ours, table(config.depth, config.mlp == "swiglu"))


def config_json(
    config: ViTConfig, architecture: str | None, classes: tuple[str, ...], preprocess: Mapping[str, Any]
) -> dict[str, Any]:
    """timm's ``config.json``: enough for ``timm.create_model("local-dir:…")``.

    Args:
        config: of the model.
        architecture: timm's name of it; None when it has none, and every number is an argument.
        classes: written as ``label_names``.
        preprocess: the preprocessing part of ``pretrained_cfg``.
    """
    pool = NAME_OF_POOL[config.pool]
    arguments: dict[str, Any] = {"img_size": list(as_pair(config.img_size)), "depth": config.depth}
    if not config.distilled:
        arguments |= {"global_pool": pool, "fc_norm": config.pool_norm}
    if architecture is None:
        arguments |= _arguments(config)
    name = architecture or "vit_base_patch16_224"
    return folder_json(name, config, config.embed_dim, pool, arguments, classes, preprocess)


def folder_json(
    architecture: str,
    config: ModelConfig,
    features: int,
    pool: str,
    arguments: Mapping[str, Any],
    classes: tuple[str, ...],
    preprocess: Mapping[str, Any],
) -> dict[str, Any]:
    """timm's ``config.json`` for a model of any family.

    Args:
        architecture: timm's name whose function takes the arguments.
        config: of the model.
        features: width of what the classifier reads.
        pool: timm's name of the pool.
        arguments: of that function.
        classes: written as ``label_names``.
        preprocess: the preprocessing part of ``pretrained_cfg``.
    """
    size = [config.in_channels, *as_pair(config.img_size)]
    pretrained = {"input_size": size, "num_classes": config.num_classes, **preprocess}
    if classes:
        pretrained["label_names"] = list(classes)
    return {
        "architecture": architecture,
        "num_classes": config.num_classes,
        "num_features": features,
        "global_pool": pool,
        "model_args": dict(arguments),
        "pretrained_cfg": pretrained,
    }


def _arguments(config: ViTConfig) -> dict[str, Any]:
    if config.mlp != "gelu" or config.distilled:
        raise CheckpointError("timm has no name for this architecture, and its config.json cannot describe it")
    return {
        "patch_size": config.patch_size,
        "embed_dim": config.embed_dim,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "init_values": config.layer_scale,
        "class_token": config.class_token,
        "no_embed_class": not config.class_position or bool(config.registers),
        "reg_tokens": config.registers,
    }


FORMAT = Format("timm", recognises, read)
