"""BEiT in its authors' and timm's naming, which is one, and in Transformers' two.

A pretraining file has one table of distances for all layers. It is read as it is (``shared_bias=True``) and handed out
to the layers when a model with one for each is asked for, which is what every named architecture has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.preprocess import HALF_MEAN, HALF_STD, Preprocess
from vitrail.heads import PoolName
from vitrail.models import BeitConfig
from vitrail.nn.embed import as_pair
from vitrail.nn.relative import PREFIX_ROWS, BiasResizeName, distances
from vitrail.weights import hf, timm
from vitrail.weights.account import Account
from vitrail.weights.dense import DENSE_DROPS
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.infer import Hints, mlp_ratio, simplest
from vitrail.weights.names import Format, Name, State, Translated, blocks_in, both, expand, translate

TABLE = "relative_position_bias_table"
OUR_TABLE = f"attn.position_bias.{TABLE}"
SHARED_TABLE = f"rel_pos_bias.{TABLE}"
DROPS = {
    **DENSE_DROPS,
    r".*relative_position_index": "an index that is computed here",
    r"lm_head\.(weight|bias)": "the head of masked image modelling",
}


def _as_row(parts: Sequence[Tensor]) -> Tensor:
    """The mask token, which they store as ``(1, 1, D)``."""
    return parts[0].flatten(0, -2)


def _block(theirs: Mapping[str, tuple[str, ...]], qkv: tuple[str, ...], biases: tuple[str, str]) -> list[Name]:
    """A block's rows: names of its parts, of the joint projection's weights, and of its two biases."""
    return [
        *(row for ours, parts in theirs.items() for part in parts for row in both(f"blocks.{{i}}.{ours}", part)),
        Name("blocks.{i}.attn.qkv.weight", qkv),
        *(Name(f"blocks.{{i}}.attn.qkv.{part}_bias", (bias,)) for part, bias in zip("qv", biases, strict=True)),
    ]


TIMM_TABLE = [
    Name("cls_token", ("cls_token",)),
    Name("mask_token", ("mask_token",), _as_row),
    Name(SHARED_TABLE, (SHARED_TABLE,)),
    *(row for part in ("patch_embed.proj", "norm", "fc_norm", "head") for row in both(part, part)),
    *_block(
        {part: (f"blocks.{{i}}.{part}",) for part in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")},
        ("blocks.{i}.attn.qkv.weight",),
        ("blocks.{i}.attn.q_bias", "blocks.{i}.attn.v_bias"),
    ),
    Name(f"blocks.{{i}}.{OUR_TABLE}", (f"blocks.{{i}}.attn.{TABLE}",)),
    *(Name(f"blocks.{{i}}.ls{n}.gamma", (f"blocks.{{i}}.gamma_{n}",)) for n in (1, 2)),
]

FILES, MEMORY = "encoder.layer.{i}", "layers.{i}"
TRANSFORMERS_TABLE = [
    Name("cls_token", ("embeddings.cls_token",)),
    Name("mask_token", ("embeddings.mask_token",), _as_row),
    Name(SHARED_TABLE, (f"encoder.relative_position_bias.{TABLE}",)),
    Name(SHARED_TABLE, (f"shared_position_bias.{TABLE}",)),
    *both("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    *both("norm", "layernorm"),
    *both("fc_norm", "pooler.layernorm"),
    *both("head", "classifier"),
    *_block(
        {
            "norm1": (f"{FILES}.layernorm_before", f"{MEMORY}.layernorm_before"),
            "attn.proj": (f"{FILES}.attention.output.dense", f"{MEMORY}.attention.o_proj"),
            "norm2": (f"{FILES}.layernorm_after", f"{MEMORY}.layernorm_after"),
            "mlp.fc1": (f"{FILES}.intermediate.dense", f"{MEMORY}.mlp.fc1"),
            "mlp.fc2": (f"{FILES}.output.dense", f"{MEMORY}.mlp.fc2"),
        },
        tuple(f"{FILES}.attention.attention.{part}.weight" for part in hf.QKV),
        (f"{FILES}.attention.attention.query.bias", f"{FILES}.attention.attention.value.bias"),
    ),
    Name("blocks.{i}.attn.qkv.weight", tuple(f"{MEMORY}.attention.{part}.weight" for part in hf.IN_MEMORY)),
    Name("blocks.{i}.attn.qkv.q_bias", (f"{MEMORY}.attention.q_proj.bias",)),
    Name("blocks.{i}.attn.qkv.v_bias", (f"{MEMORY}.attention.v_proj.bias",)),
    Name(f"blocks.{{i}}.{OUR_TABLE}", (f"{FILES}.attention.attention.relative_position_bias.{TABLE}",)),
    Name(f"blocks.{{i}}.{OUR_TABLE}", (f"{MEMORY}.relative_position_bias.{TABLE}",)),
    *(Name(f"blocks.{{i}}.ls{n}.gamma", (f"{at}.lambda_{n}",)) for at in (FILES, MEMORY) for n in (1, 2)),
]
"""The files' names first, which are those written; then the ones of the modules in Transformers 5."""

# ---------------------------------------------------------------------- reading


def _bare(name: str) -> str:
    return name.removeprefix("backbone.").removeprefix("beit.")


def timm_recognises(names: frozenset[str]) -> bool:
    """Separate biases of queries and values, and a table of distances."""
    bare = {_bare(name) for name in names}
    needed = {"cls_token", "blocks.0.attn.qkv.weight", "blocks.0.attn.q_bias"}
    return needed <= bare and any(name.endswith(TABLE) for name in bare)


def transformers_recognises(names: frozenset[str]) -> bool:
    """Transformers' embeddings with a class token, and a table of distances."""
    bare = {_bare(name) for name in names}
    return "embeddings.cls_token" in bare and any(name.endswith(f"position_bias.{TABLE}") for name in bare)


def _read(raw: Raw, rows: list[Name], pattern: str, account: Account) -> State:
    tensors: dict[str, Tensor] = {}
    for name, tensor in raw.tensors.items():
        # Masked pretraining puts its own norm beside a backbone that may have one already.
        key = "lm_head_norm" + name.removeprefix("layernorm") if _is_second_norm(name, raw) else _bare(name)
        tensors[key] = tensor
    drops = {**DROPS, r"lm_head_norm\..*": "the norm of the head of masked image modelling"}
    return translate(tensors, expand(rows, blocks_in(tensors, pattern)), drops, account)


def _is_second_norm(name: str, raw: Raw) -> bool:
    return name in ("layernorm.weight", "layernorm.bias") and f"beit.{name}" in raw.tensors


def read_timm(raw: Raw) -> Translated:
    """A file of the authors, pretrained or fine-tuned, or of timm."""
    account = Account(str(raw.path), TIMM_FORMAT.name)
    state = _read(raw, TIMM_TABLE, r"blocks\.(\d+)\.", account)
    config = infer(state, timm.hints_of(raw), "geometric", account)
    size = as_pair(config.img_size)
    usual = Preprocess(size=size, crop=0.9 if max(size) < 384 else 1.0, mean=HALF_MEAN, std=HALF_STD)
    if not raw.config.get("pretrained_cfg"):
        account.notes.append(f"the preprocessing does not stand in the checkpoint: assumed is BEiT's mean {HALF_MEAN}")
    return Translated(config, state, account, timm.classes_of(raw.config), usual)


def read_transformers(raw: Raw) -> Translated:
    """Transformers' BEiT of either naming."""
    account = Account(str(raw.path), TRANSFORMERS_FORMAT.name)
    config = raw.config
    hf.require_declared(raw, "beit")
    state = _read(raw, TRANSFORMERS_TABLE, r"(?:encoder\.layer|layers)\.(\d+)\.", account)
    size = config.get("image_size")
    hints = Hints(
        norm_eps=float(config.get("layer_norm_eps", 1e-12)),
        img_size=None if size is None else as_pair(size if isinstance(size, int) else (size[0], size[1])),
    )
    return Translated(infer(state, hints, "bilinear", account), state, account, hf.classes_of(config))


# ---------------------------------------------------------------------- what the tensors are the weights of


def infer(state: Mapping[str, Tensor], hints: Hints, bias_resize: BiasResizeName, account: Account) -> BeitConfig:
    """The config whose model has exactly these weights.

    Raises:
        CheckpointError: a weight that every BEiT has is missing, or the shapes contradict each other.
    """
    source = account.source
    shared = SHARED_TABLE in state
    first = SHARED_TABLE if shared else f"blocks.0.{OUR_TABLE}"
    required = ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", first)
    absent = [name for name in required if name not in state]
    if absent:
        raise CheckpointError(f"{source}: incomplete: there is nothing that could be {', '.join(absent)}")
    dim, channels, *patch = state["patch_embed.proj.weight"].shape
    rows, heads = state[first].shape
    head = state.get("head.weight")
    normed = "fc_norm.weight" in state
    pool: PoolName = hints.pool or ("mean" if normed else "class")
    try:
        return BeitConfig(
            img_size=simplest(_img_size(rows, (patch[0], patch[1]), hints)),
            patch_size=simplest((patch[0], patch[1])),
            in_channels=channels,
            num_classes=0 if head is None else head.shape[0],
            embed_dim=dim,
            depth=blocks_in(state, r"blocks\.(\d+)\."),
            num_heads=heads,
            mlp_ratio=mlp_ratio(state["blocks.0.mlp.fc1.weight"].shape[0], dim),
            layer_scale=0.1 if "blocks.0.ls1.gamma" in state else None,
            mask_token="mask_token" in state,
            pool=pool,
            pool_norm=normed,
            shared_bias=shared,
            bias_resize=bias_resize,
            norm_eps=hints.norm_eps,
        )
    except (VitrailError, IndexError) as error:
        raise CheckpointError(f"{source}: its shapes make no BEiT: {error}") from error


def _img_size(rows: int, patch: tuple[int, int], hints: Hints) -> tuple[int, int]:
    """Pixels of the grid that a table is for."""
    if hints.img_size is not None:
        grid = (hints.img_size[0] // patch[0], hints.img_size[1] // patch[1])
        if math.prod(distances(grid)) + PREFIX_ROWS == rows:
            return hints.img_size
    side = (math.isqrt(max(rows - PREFIX_ROWS, 0)) + 1) // 2
    if side < 1 or (2 * side - 1) ** 2 + PREFIX_ROWS != rows:
        raise CheckpointError(
            f"the table of distances has {rows} rows, which is no square grid with {PREFIX_ROWS} rows for the class "
            "token: its size must stand in a config.json beside the file"
        )
    return (side * patch[0], side * patch[1])


TIMM_FORMAT = Format("BEiT by its authors or timm", timm_recognises, read_timm)
TRANSFORMERS_FORMAT = Format("Transformers (beit)", transformers_recognises, read_transformers)
FORMATS = (TIMM_FORMAT, TRANSFORMERS_FORMAT)
