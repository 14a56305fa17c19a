"""timm's naming of CLIP's image towers: its Vision Transformer with a norm before the first block.

SigLIP's towers have no name there that other Vision Transformers lack. Where ``config.json`` tells that the MLPs have
another GELU than a Vision Transformer's (by the architecture's name, or as an argument) they are image towers here as
well; the others are read as Vision Transformers (``weights/timm.py``), and become image towers when one is asked for by
its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.models import MODELS, ImageTowerConfig
from vitrail.nn.embed import as_pair
from vitrail.weights import timm
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.infer_clip import TowerHints, authors_preprocess, infer_tower
from vitrail.weights.names import Format, Name, State, Translated, blocks_in, both, rename, translate
from vitrail.weights.timm_names import activation_of, architecture_of, arguments_of, require_readable

NOT_IN_TOWERS = {
    "reg_token": "registers",
    "dist_token": "a distillation token",
    "blocks.0.ls1.gamma": "layer scales",
    "blocks.0.gamma_1": "layer scales",
    "blocks.0.attn.q_norm.weight": "norms of queries and keys",
}


def recognises(names: frozenset[str]) -> bool:
    """timm's names, and the norm before the first block."""
    return timm.recognises(names) and "norm_pre.weight" in names


def table(depth: int) -> list[Name]:
    """Every name of a tower of that depth."""
    return [*both("norm_pre", "norm_pre"), *timm.table(depth, gated=False)]


def read(raw: Raw) -> Translated:
    """An image tower in our words.

    Raises:
        CheckpointError: an activation, a block or a pool that no image tower has.
    """
    require_readable(raw)
    account = Account(str(raw.path), FORMAT.name)
    depth = blocks_in(raw.tensors, r"blocks\.(\d+)\.")
    state = translate(raw.tensors, table(depth), timm.DROPS, account)
    embed_norm = "norm_pre.weight" in state
    size, told = arguments_of(raw.config).get("img_size"), timm.hints_of(raw)
    hints = TowerHints(
        activation=activation_of(raw),
        norm_eps=1e-5 if embed_norm else 1e-6,
        pos_resize="bicubic_antialias",
        num_heads=told.num_heads,
        img_size=size if size is None or isinstance(size, int) else (int(size[0]), int(size[1])),
        pool=told.pool,
    )
    config = infer_tower(state, hints, account)
    if not raw.config:
        _note_doubts(config, account)
    # A Vision Transformer that only has another GELU was not made by the authors of these towers.
    authors = embed_norm or "siglip" in architecture_of(raw.config)
    preprocess = authors_preprocess(config) if authors else None
    return Translated(config, state, account, timm.classes_of(raw.config), preprocess)


def _note_doubts(config: ImageTowerConfig, account: Account) -> None:
    """What a file without ``config.json`` might be as well."""
    account.assume(
        "activation",
        "the activation does not stand in the checkpoint: assumed is the exact GELU, as timm does; for OpenAI's "
        "weights give activation='quick_gelu'",
    )
    if config.pool == "attention":
        account.notes.append(
            "assumed: no positions but those of the table; timm's vit_pe_*, which has rotary ones as well, has the "
            "same tensors and cannot be had here"
        )


def read_unnormed(raw: Raw) -> Translated:
    """timm's naming without the norm: an image tower where the GELU is one of theirs, else a Vision Transformer.

    Raises:
        CheckpointError: that GELU beside something that no image tower has.
    """
    if timm.is_gated(raw.tensors) or (act := activation_of(raw)) == "gelu":
        return timm.read(raw)
    others = {what for name, what in NOT_IN_TOWERS.items() if name in raw.tensors}
    if "blocks.0.attn.qkv.bias" not in raw.tensors:
        others.add("queries, keys and values without bias")
    if others:
        raise CheckpointError(
            f"{raw.path}: its activation is {act!r}, which only image towers have here, and those have no "
            f"{', '.join(sorted(others))}"
        )
    return read(raw)


def write(config: ImageTowerConfig, state: Mapping[str, Tensor]) -> State:
    """Our weights as the state dict that timm's model takes with ``strict=True``."""
    return rename(state, table(config.depth))


def config_json(
    config: ImageTowerConfig, num_classes: int, classes: tuple[str, ...], preprocess: Mapping[str, Any]
) -> dict[str, Any]:
    """timm's ``config.json``: enough for ``timm.create_model("local-dir:…")``."""
    if config.norm_eps != (1e-5 if config.embed_norm else 1e-6) or config.pool == "class_mean":
        raise CheckpointError(
            f"timm has no image tower with epsilon {config.norm_eps} and pool {config.pool!r} of this kind"
        )
    height, width = as_pair(config.img_size)
    pool = timm.NAME_OF_POOL[config.pool]
    pretrained = {"input_size": [config.in_channels, height, width], "num_classes": num_classes, **preprocess}
    if classes:
        pretrained["label_names"] = list(classes)
    return {
        "architecture": timm_name(config),
        "num_classes": num_classes,
        "num_features": config.embed_dim,
        "global_pool": pool,
        "model_args": {
            "img_size": [height, width],
            "patch_size": config.patch_size,
            "embed_dim": config.embed_dim,
            "depth": config.depth,
            "num_heads": config.num_heads,
            "mlp_ratio": config.mlp_ratio,
            "class_token": config.class_token,
            "global_pool": pool,
            "fc_norm": config.pool_norm,
            "act_layer": config.activation,
        },
        "pretrained_cfg": pretrained,
    }


def timm_name(config: ImageTowerConfig) -> str:
    """timm's name of this architecture, else of the smallest of its kind; the numbers are arguments in any case."""
    shape = _shape(config)
    names = [name for name, known in MODELS.items() if type(known) is ImageTowerConfig and _shape(known) == shape]
    quick = [name for name in names if ("quickgelu" in name) == (config.activation == "quick_gelu")]
    return next(iter([*quick, *names]), f"vit_base_patch16_{'clip' if config.embed_norm else 'siglip'}_224")


def _shape(config: ImageTowerConfig) -> tuple[object, ...]:
    return config.embed_norm, config.embed_dim, config.depth, config.patch_size, config.img_size


FORMAT = Format("timm image tower", recognises, read)
UNNORMED = Format(timm.FORMAT.name, timm.recognises, read_unnormed)
