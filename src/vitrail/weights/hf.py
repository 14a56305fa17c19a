"""Transformers' naming of ViT, DeiT, DINOv2 and DINOv2 with registers.

There are two: the one of the files (on the hub, and what ``save_pretrained`` writes) and the one of the modules in
Transformers 5, which ``state_dict()`` gives. Both are read, the files' is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vitrail.heads import PoolName
from vitrail.models import ViTConfig
from vitrail.nn.embed import as_pair
from vitrail.nn.position import ResizeName
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.infer import Hints, infer_config
from vitrail.weights.names import Format, Name, State, Translated, blocks_in, both, expand, rename, translate


@dataclass(frozen=True)
class Family:
    """One of Transformers' model folders.

    Attributes:
        prefix: before the names of the backbone in a model with a head.
        architecture: the class with a head, and the bare one.
        norm_eps: when no ``config.json`` says it.
        pos_resize: how this model resizes its positions.
        block: names inside a block that the families do not share.
    """

    prefix: str
    architecture: tuple[str, str]
    norm_eps: float
    pos_resize: ResizeName
    block: tuple[Name, ...]


QKV = ("query", "key", "value")
IN_MEMORY = ("q_proj", "k_proj", "v_proj")


def _attention(files: str, memory: str) -> list[Name]:
    """Projections of the attention in both namings, the files' first."""
    ours = "blocks.{i}.attn"
    return [
        *both(f"{ours}.qkv", tuple(f"{files}.attention.attention.{part}" for part in QKV)),
        *both(f"{ours}.qkv", tuple(f"{memory}.attention.{part}" for part in IN_MEMORY)),
        *both(f"{ours}.proj", f"{files}.attention.output.dense"),
        *both(f"{ours}.proj", f"{memory}.attention.o_proj"),
    ]


FILES, MEMORY = "encoder.layer.{i}", "layers.{i}"
VIT_BLOCK = (
    *both("blocks.{i}.norm1", f"{FILES}.layernorm_before"),
    *both("blocks.{i}.norm1", f"{MEMORY}.layernorm_before"),
    *_attention(FILES, MEMORY),
    *both("blocks.{i}.norm2", f"{FILES}.layernorm_after"),
    *both("blocks.{i}.norm2", f"{MEMORY}.layernorm_after"),
    *both("blocks.{i}.mlp.fc1", f"{FILES}.intermediate.dense"),
    *both("blocks.{i}.mlp.fc1", f"{MEMORY}.mlp.fc1"),
    *both("blocks.{i}.mlp.fc2", f"{FILES}.output.dense"),
    *both("blocks.{i}.mlp.fc2", f"{MEMORY}.mlp.fc2"),
)
DINO_BLOCK = (
    *both("blocks.{i}.norm1", f"{FILES}.norm1"),
    *_attention(FILES, FILES),
    Name("blocks.{i}.ls1.gamma", (f"{FILES}.layer_scale1.lambda1",)),
    *both("blocks.{i}.norm2", f"{FILES}.norm2"),
    *both("blocks.{i}.mlp.fc1", f"{FILES}.mlp.fc1"),
    *both("blocks.{i}.mlp.fc2", f"{FILES}.mlp.fc2"),
    *both("blocks.{i}.mlp.w12", f"{FILES}.mlp.weights_in"),
    *both("blocks.{i}.mlp.w12", (f"{FILES}.mlp.gate_proj", f"{FILES}.mlp.up_proj")),
    *both("blocks.{i}.mlp.w3", f"{FILES}.mlp.weights_out"),
    *both("blocks.{i}.mlp.w3", f"{FILES}.mlp.down_proj"),
    Name("blocks.{i}.ls2.gamma", (f"{FILES}.layer_scale2.lambda1",)),
)

FAMILIES: dict[str, Family] = {
    "vit": Family("vit.", ("ViTForImageClassification", "ViTModel"), 1e-12, "bicubic", VIT_BLOCK),
    "deit": Family("deit.", ("DeiTForImageClassificationWithTeacher", "DeiTModel"), 1e-12, "bicubic", VIT_BLOCK),
    "dinov2": Family("dinov2.", ("Dinov2ForImageClassification", "Dinov2Model"), 1e-6, "bicubic", DINO_BLOCK),
    "dinov2_with_registers": Family(
        "dinov2_with_registers.",
        ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersModel"),
        1e-6,
        "bicubic_antialias",
        DINO_BLOCK,
    ),
}
"""By ``model_type`` in ``config.json``."""

EMBEDDINGS = [
    Name("cls_token", ("embeddings.cls_token",)),
    Name("dist_token", ("embeddings.distillation_token",)),
    Name("reg_token", ("embeddings.register_tokens",)),
    Name("mask_token", ("embeddings.mask_token",)),
    Name("pos_embed", ("embeddings.position_embeddings",)),
    *both("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    *both("norm", "layernorm"),
]
HEADS = [
    *both("head", "classifier"),
    *both("head", "cls_classifier"),
    *both("head_dist", "distillation_classifier"),
]
DROPS = {
    r"(vit\.|deit\.)?pooler\.dense\.(weight|bias)": "Transformers' tanh pooler, which its classifiers do not read",
    r"(vit\.|deit\.)?embeddings\.mask_token": "the token of masked image modelling, which this model was not built for",
    r"decoder\..*": "a decoder of masked pretraining",
}
ACTIVATIONS = (None, "gelu", "gelu_python")


def recognises(names: frozenset[str]) -> bool:
    """The embeddings' name, at the top or behind one of the families' prefixes."""
    return _prefix(names) is not None


def _prefix(names: frozenset[str]) -> str | None:
    for prefix in ("", "backbone.", *(family.prefix for family in FAMILIES.values())):
        if f"{prefix}embeddings.patch_embeddings.projection.weight" in names:
            return prefix
    return None


def _family(raw: Raw) -> str:
    names = raw.tensors.keys()
    layers = any(".norm1." in name for name in names)
    if layers:
        registers = any(name.endswith("register_tokens") for name in names)
        return "dinov2_with_registers" if registers else "dinov2"
    return "deit" if any(name.endswith("distillation_token") for name in names) else "vit"


def table(family: Family, prefix: str, depth: int) -> list[Name]:
    """Every name of a model of that depth, the backbone's behind ``prefix``."""
    backbone = expand([*EMBEDDINGS, *family.block], depth)
    return [Name(row.ours, tuple(prefix + part for part in row.theirs), row.join) for row in backbone] + HEADS


def read(raw: Raw) -> Translated:
    """A Transformers checkpoint in our words."""
    names = frozenset(raw.tensors)
    prefix = _prefix(names) or ""
    kind = _family(raw)
    account = Account(str(raw.path), f"Transformers ({kind})")
    require_declared(raw, kind, "vit_mae", "vit_msn")
    depth = blocks_in((name.removeprefix(prefix) for name in names), r"(?:encoder\.layer|layers)\.(\d+)\.")
    drops = dict(DROPS)
    rows = table(FAMILIES[kind], prefix, depth)
    if kind in ("vit", "deit"):
        rows = [row for row in rows if row.ours != "mask_token"]
    if kind == "deit" and "distillation_classifier.weight" not in names:
        rows = [row for row in rows if not row.ours.startswith("head")]
        drops[r"classifier\.(weight|bias)"] = "one head on a model of two tokens: put a new one on with num_classes"
    state = translate(without_empty_registers(raw.tensors, account), rows, drops, account)
    config = infer_config(state, _hints(raw, FAMILIES[kind]), account)
    return Translated(config, state, account, classes_of(raw.config))


def without_empty_registers(tensors: Mapping[str, Tensor], account: Account) -> State:
    """The same without the registers of a model that has none, which Transformers stores as a tensor of no rows."""
    empty = [name for name, tensor in tensors.items() if name.endswith("register_tokens") and not tensor.numel()]
    account.dropped |= dict.fromkeys(empty, "an empty tensor: this model has no registers")
    return {name: tensor for name, tensor in tensors.items() if name not in empty}


def require_declared(raw: Raw, kind: str, *others: str) -> None:
    """Refuse a ``config.json`` that contradicts the tensors or has an activation other than GELU.

    Args:
        raw: the file.
        kind: ``model_type`` of what its tensors are.
        others: further ones whose tensors have the same names.
    """
    declared = raw.config.get("model_type", kind)
    if declared not in (kind, *others):
        raise CheckpointError(f"{raw.path}: config.json says {declared!r}, but the tensors are those of {kind!r}")
    if raw.config.get("hidden_act") not in ACTIVATIONS:
        raise CheckpointError(f"{raw.path}: the activation {raw.config['hidden_act']!r} is not the exact GELU")


def _hints(raw: Raw, family: Family) -> Hints:
    config = raw.config
    size = config.get("image_size")
    pair = None if size is None else as_pair(size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    dino = family.block is DINO_BLOCK
    pool: PoolName | None = "class_mean" if dino and "classifier.weight" in raw.tensors else None
    return Hints(
        norm_eps=float(config.get("layer_norm_eps", family.norm_eps)),
        pos_resize=family.pos_resize,
        num_heads=config.get("num_attention_heads"),
        img_size=pair,
        pool=pool,
    )


def classes_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names in the order of the logits; Transformers' placeholders (``LABEL_0``) are none."""
    names = config.get("id2label") or {}
    ordered = tuple(str(names[key]) for key in sorted(names, key=int))
    return () if all(name == f"LABEL_{i}" for i, name in enumerate(ordered)) else ordered


def kind_of(config: ViTConfig) -> str:
    """The family of Transformers that has this architecture.

    Raises:
        CheckpointError: none has.
    """
    dino = config.layer_scale is not None
    kind = "dinov2" if dino else "deit" if config.distilled else "vit"
    if dino and config.registers:
        kind = "dinov2_with_registers"
    reasons = {
        "it has no class token, or none with a position": not (config.class_token and config.class_position),
        "its block is parallel": config.block != "pre_norm",
        "its queries and keys are normalised": config.qk_norm,
        "its norms are RMS norms": config.norm != "layer",
        "its norm stands behind the pool": config.pool_norm,
        "its MLP is gated but it has no layer scale": config.mlp == "swiglu" and not dino,
        "it has registers but no layer scale": bool(config.registers) and not dino,
        "it has a distillation token and layer scale": dino and config.distilled,
        "its picture or patch is not square": len({*as_pair(config.img_size)}) + len({*as_pair(config.patch_size)}) > 2,
        f"its classifier reads {config.pool!r}": bool(config.num_classes)
        and config.pool != ("class_mean" if dino else "class"),
    }
    wrong = [reason for reason, holds in reasons.items() if holds]
    if wrong:
        raise CheckpointError(f"Transformers has no model of this architecture: {'; '.join(wrong)}")
    return kind


def write(config: ViTConfig, state: Mapping[str, Tensor], account: Account) -> State:
    """Our weights under the names of Transformers' files, for ``from_pretrained``."""
    kind = kind_of(config)
    ours = dict(state)
    dino = kind.startswith("dinov2")
    if not dino and ours.pop("mask_token", None) is not None:
        account.dropped["mask_token"] = f"Transformers' {kind} keeps no mask token"
    if dino and "mask_token" not in ours:
        ours["mask_token"] = ours["cls_token"].new_zeros(1, config.embed_dim)
        account.missing["mask_token"] = "zeros: Transformers' DINOv2 always has one"
    prefix = FAMILIES[kind].prefix if config.num_classes else ""
    rows = table(FAMILIES[kind], prefix, config.depth)
    if kind == "deit":
        rows = [row for row in rows if row.theirs[0] not in ("classifier.weight", "classifier.bias")]
    return rename(ours, rows)


def config_json(config: ViTConfig, classes: tuple[str, ...]) -> dict[str, Any]:
    """Transformers' ``config.json`` for this architecture."""
    kind = kind_of(config)
    out: dict[str, Any] = {
        "architectures": [FAMILIES[kind].architecture[0 if config.num_classes else 1]],
        "model_type": kind,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "image_size": as_pair(config.img_size)[0],
        "patch_size": as_pair(config.patch_size)[0],
        "num_channels": config.in_channels,
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": config.qkv_bias,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "dtype": "float32",
    }
    if kind.startswith("dinov2"):
        out |= {"mlp_ratio": _whole(config.mlp_ratio), "use_swiglu_ffn": config.mlp == "swiglu"}
        out |= {"num_register_tokens": config.registers} if config.registers else {}
    else:
        out["intermediate_size"] = int(config.embed_dim * config.mlp_ratio)
    return out | classes_json(config.num_classes, classes)


def classes_json(num_classes: int, classes: tuple[str, ...]) -> dict[str, Any]:
    """The part of ``config.json`` that names the classes; placeholders where they have no names."""
    if not num_classes:
        return {}
    names = classes or tuple(f"LABEL_{i}" for i in range(num_classes))
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number


FORMAT = Format("Transformers", recognises, read)
