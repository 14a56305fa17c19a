"""DINOv3 in the naming of its authors, of Transformers (files and modules) and of timm.

All have the same tensors: queries, keys and values joint or apart, a bias of queries and values (of the joint one, the
authors mask the keys' third), the gate and the value of SwiGLU apart. The rotary periods stand in the authors' files
alone, rounded to bfloat16; the other two compute them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vitrail.heads import PoolName
from vitrail.models import DINOv3Config
from vitrail.nn.embed import as_pair
from vitrail.nn.rotary import RotaryGrid
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.hf import without_empty_registers
from vitrail.weights.infer import Hints, heads_of, mlp_of, simplest
from vitrail.weights.names import Format, Name, State, Translated, blocks_in, both, expand, translate
from vitrail.weights.timm import classes_of, hints_of
from vitrail.weights.timm_names import require_readable

NORM_EPS = 1e-5
BASE = 100.0
HEADS = {384: 6, 768: 12, 1024: 16, 1280: 20, 4096: 32}
"""By width; shapes do not tell them."""

BLOCKS = r"blocks\.(\d+)\."
LAYERS = r"(?:model\.)?layer\.(\d+)\."

SHARED = [
    Name("cls_token", ("cls_token",)),
    *(row for part in ("patch_embed.proj", "norm") for row in both(part, part)),
    *(row for part in ("norm1", "attn.proj", "norm2") for row in both(f"blocks.{{i}}.{part}", f"blocks.{{i}}.{part}")),
    Name("blocks.{i}.attn.qkv.weight", ("blocks.{i}.attn.qkv.weight",)),
]
PLAIN_MLP = [row for part in ("fc1", "fc2") for row in both(f"blocks.{{i}}.mlp.{part}", f"blocks.{{i}}.mlp.{part}")]

OFFICIAL = [
    *SHARED,
    *PLAIN_MLP,
    Name("reg_token", ("storage_tokens",)),
    Name("mask_token", ("mask_token",)),
    Name("rope.periods", ("rope_embed.periods",)),
    *(Name(f"blocks.{{i}}.ls{n}.gamma", (f"blocks.{{i}}.ls{n}.gamma",)) for n in (1, 2)),
    *both("blocks.{i}.mlp.w12", ("blocks.{i}.mlp.w1", "blocks.{i}.mlp.w2")),
    *both("blocks.{i}.mlp.w3", "blocks.{i}.mlp.w3"),
]
OFFICIAL_DROPS = {
    r"local_cls_norm\.(weight|bias)": "the norm of the class tokens of local crops, which only pretraining has",
    r"(dino|ibot|gram)_head\..*": "a projection head of self-supervised training",
    r"blocks\.\d+\.attn\.qkv\.bias_mask": "which part of the joint bias is in use: that of queries and values",
}


def official_recognises(names: frozenset[str]) -> bool:
    """The authors' name of the registers, beside blocks or behind ``backbone.``."""
    return any({f"{p}storage_tokens", f"{p}blocks.0.attn.qkv.weight"} <= names for p in ("", "backbone."))


def read_official(raw: Raw) -> Translated:
    """The authors' backbone, or the one in a training checkpoint."""
    account = Account(str(raw.path), OFFICIAL_FORMAT.name)
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in raw.tensors.items()}
    biases = {name: tensors.pop(name) for name in list(tensors) if name.endswith("attn.qkv.bias")}
    table = expand(OFFICIAL, blocks_in(tensors, BLOCKS))
    state: State = {}
    for name, bias in biases.items():
        state |= _split_bias(name, bias.float(), tensors.get(f"{name}_mask"), account)
    state |= translate(tensors, table, OFFICIAL_DROPS, account)
    return Translated(_config(state, Hints(norm_eps=NORM_EPS), account), state, account)


def _split_bias(name: str, bias: Tensor, mask: Tensor | None, account: Account) -> State:
    """The joint bias as that of queries and that of values; the keys' must not be in use."""
    query, key, value = (bias if mask is None else bias * mask.float()).chunk(3)
    if key.any():
        raise CheckpointError(f"{account.source}: {name} has a bias for the keys, which no DINOv3 has")
    stem = name.removesuffix(".bias")
    account.translated[name] = f"{stem}.q_bias+{stem}.v_bias"
    return {f"{stem}.q_bias": query.clone(), f"{stem}.v_bias": value.clone()}


# ---------------------------------------------------------------------- Transformers


def flat(parts: Sequence[Tensor]) -> Tensor:
    """The mask token, which is ``(1, 1, D)`` there and ``(1, D)`` here."""
    return parts[0].flatten(0, 1)


def transformers_table(layer: str, gated: bool) -> list[Name]:
    """Names of a model whose blocks are called ``layer``."""
    ours, attention = "blocks.{i}", f"{layer}.attention"
    rows = [
        Name("cls_token", ("embeddings.cls_token",)),
        Name("reg_token", ("embeddings.register_tokens",)),
        Name("mask_token", ("embeddings.mask_token",), flat),
        *both("patch_embed.proj", "embeddings.patch_embeddings"),
        *both("norm", "norm"),
        *(row for n in (1, 2) for row in both(f"{ours}.norm{n}", f"{layer}.norm{n}")),
        *(Name(f"{ours}.ls{n}.gamma", (f"{layer}.layer_scale{n}.lambda1",)) for n in (1, 2)),
        Name(f"{ours}.attn.qkv.weight", tuple(f"{attention}.{part}_proj.weight" for part in "qkv")),
        *(Name(f"{ours}.attn.qkv.{part}_bias", (f"{attention}.{part}_proj.bias",)) for part in "qv"),
        *both(f"{ours}.attn.proj", f"{attention}.o_proj"),
    ]
    if gated:
        rows += both(f"{ours}.mlp.w12", (f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"))
        return rows + both(f"{ours}.mlp.w3", f"{layer}.mlp.down_proj")
    return rows + both(f"{ours}.mlp.fc1", f"{layer}.mlp.up_proj") + both(f"{ours}.mlp.fc2", f"{layer}.mlp.down_proj")


def transformers_recognises(names: frozenset[str]) -> bool:
    """A patch projection without a module of its own, and blocks named ``layer``."""
    return "embeddings.patch_embeddings.weight" in names and any(
        f"{prefix}layer.0.attention.q_proj.weight" in names for prefix in ("", "model.")
    )


def read_transformers(raw: Raw) -> Translated:
    """Transformers' DINOv3ViT, by the names of its files or of its modules."""
    account = Account(str(raw.path), TRANSFORMERS_FORMAT.name)
    names, config = raw.tensors.keys(), raw.config
    gated = any(".mlp.gate_proj." in name for name in names)
    activation = config.get("hidden_act")
    if activation not in (None, "silu" if gated else "gelu"):
        raise CheckpointError(f"{raw.path}: the activation {activation!r} is none that a DINOv3 has")
    layer = "model.layer.{i}" if any(name.startswith("model.layer.") for name in names) else "layer.{i}"
    rows = expand(transformers_table(layer, gated), blocks_in(names, LAYERS))
    state = translate(without_empty_registers(raw.tensors, account), rows, {}, account)
    _fill_biases(state, account)
    size = config.get("image_size")
    hints = Hints(
        norm_eps=float(config.get("layer_norm_eps", NORM_EPS)),
        num_heads=config.get("num_attention_heads"),
        img_size=None if size is None else as_pair(size if isinstance(size, int) else (int(size[0]), int(size[1]))),
    )
    return Translated(_config(state, hints, account, float(config.get("rope_theta", BASE))), state, account)


def _fill_biases(state: State, account: Account) -> None:
    """Zeros for the biases of queries, or of values, where a model has those of the other alone."""
    kinds = {"q_bias": "queries", "v_bias": "values"}
    found = {kind: [name for name in state if name.endswith(f".attn.qkv.{kind}")] for kind in kinds}
    for kind, other in (("q_bias", "v_bias"), ("v_bias", "q_bias")):
        if found[kind]:
            continue
        for name in found[other]:
            absent = name.removesuffix(other) + kind
            state[absent] = torch.zeros_like(state[name])
            account.missing[absent] = f"zeros: this model has no bias of the {kinds[kind]}"


# ---------------------------------------------------------------------- timm


def timm_table(gated: bool) -> list[Name]:
    """Names of timm's model, which it builds from its EVA."""
    rows = [
        *SHARED,
        Name("reg_token", ("reg_token",)),
        *(row for part in ("fc_norm", "head") for row in both(part, part)),
        *(Name(f"blocks.{{i}}.attn.qkv.{part}_bias", (f"blocks.{{i}}.attn.{part}_bias",)) for part in "qv"),
        *(Name(f"blocks.{{i}}.ls{n}.gamma", (f"blocks.{{i}}.gamma_{n}",)) for n in (1, 2)),
    ]
    if not gated:
        return rows + PLAIN_MLP
    rows += both("blocks.{i}.mlp.w12", ("blocks.{i}.mlp.fc1_g", "blocks.{i}.mlp.fc1_x"))
    return rows + both("blocks.{i}.mlp.w3", "blocks.{i}.mlp.fc2")


def timm_recognises(names: frozenset[str]) -> bool:
    """Registers and layer scales as EVA names them, and no table of positions of any kind."""
    return {"reg_token", "blocks.0.gamma_1", "blocks.0.attn.qkv.weight"} <= names and not any(
        "pos_embed" in name or "position_bias" in name for name in names
    )


def read_timm(raw: Raw) -> Translated:
    """timm's DINOv3; a classifier reads the mean of the patches unless a ``config.json`` says otherwise."""
    account = Account(str(raw.path), TIMM_FORMAT.name)
    require_readable(raw)
    table = expand(timm_table(any(".fc1_g." in name for name in raw.tensors)), blocks_in(raw.tensors, BLOCKS))
    state = translate(raw.tensors, table, {}, account)
    hints = hints_of(raw)
    pool: PoolName = hints.pool or ("mean" if "head.weight" in state else "class")
    found = Hints(norm_eps=NORM_EPS, num_heads=hints.num_heads, img_size=hints.img_size, pool=pool)
    return Translated(_config(state, found, account), state, account, classes_of(raw.config))


# ---------------------------------------------------------------------- what the tensors are the weights of


def _config(state: State, hints: Hints, account: Account, base: float = BASE) -> DINOv3Config:
    """The config whose model has exactly these weights; periods that the file lacks are put in."""
    source = account.source
    absent = [name for name in ("patch_embed.proj.weight", "cls_token", "blocks.0.norm1.weight") if name not in state]
    if absent:
        raise CheckpointError(f"{source}: incomplete: there is nothing that could be {', '.join(absent)}")
    projection = state["patch_embed.proj.weight"]
    if projection.ndim != 4:
        raise CheckpointError(f"{source}: the patch projection has shape {tuple(projection.shape)}, not 4 dimensions")
    dim, channels, *patch = projection.shape
    heads = hints.num_heads or _heads(state, dim, account)
    mlp, ratio = mlp_of(state, dim, source)
    if "rope.periods" not in state:
        state["rope.periods"] = RotaryGrid(dim // heads, base).periods
        account.missing["rope.periods"] = f"not in such files: computed from the base {base:g}"
    head = state.get("head.weight")
    return DINOv3Config(
        img_size=simplest(hints.img_size or (16 * patch[0], 16 * patch[1])),
        patch_size=simplest((patch[0], patch[1])),
        in_channels=channels,
        num_classes=0 if head is None else head.shape[0],
        embed_dim=dim,
        depth=blocks_in(state, BLOCKS),
        num_heads=heads,
        mlp_ratio=ratio,
        mlp=mlp,
        qkv_bias="blocks.0.attn.qkv.q_bias" in state,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,
        registers=state["reg_token"].shape[1] if "reg_token" in state else 0,
        mask_token="mask_token" in state,
        pool=hints.pool or "class",
        pool_norm="fc_norm.weight" in state,
        norm_eps=hints.norm_eps,
        rope_base=base,
    )


def _heads(state: Mapping[str, Tensor], dim: int, account: Account) -> int:
    periods = state.get("rope.periods")
    return heads_of(dim, account, published=HEADS) if periods is None else dim // (4 * len(periods))


def same_periods(state: Mapping[str, Tensor], config: DINOv3Config) -> bool:
    """Whether the stored periods are those that the base gives; false where they are its rounded ones.

    Raises:
        CheckpointError: they are others altogether, which no other library can have.
    """
    computed, stored = RotaryGrid(config.head_dim, config.rope_base).periods, state["rope.periods"].float()
    if not torch.allclose(computed, stored, rtol=0.01):
        raise CheckpointError(
            f"its rotary periods are not those of the base {config.rope_base:g}: only Vitrail has them"
        )
    return torch.equal(computed, stored)


OFFICIAL_FORMAT = Format("DINOv3 by its authors", official_recognises, read_official)
TRANSFORMERS_FORMAT = Format("Transformers (dinov3_vit)", transformers_recognises, read_transformers)
TIMM_FORMAT = Format("timm (DINOv3)", timm_recognises, read_timm)
FORMATS = (OFFICIAL_FORMAT, TRANSFORMERS_FORMAT, TIMM_FORMAT)
