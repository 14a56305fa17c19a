"""The architecture that a set of weights belongs to, read off the shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vitrail.heads import PoolName
from vitrail.models import ViTConfig
from vitrail.nn.embed import FitName
from vitrail.nn.mlp import MlpName, swiglu_hidden
from vitrail.nn.position import ResizeName
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError
from vitrail.weights.names import blocks_in

HEADS_BY_WIDTH = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16}
"""Heads of the published sizes; shapes do not tell them."""


@dataclass(frozen=True)
class Hints:
    """What shapes do not tell and the format (or a ``config.json``) does; None leaves it to the shapes.

    Attributes:
        norm_eps: epsilon of the norms.
        pos_resize: the format's way of resizing positions.
        num_heads: heads per block.
        img_size: pixels of the position table, needed when its grid is not square.
        pool: what the classifier reads.
    """

    norm_eps: float = 1e-6
    pos_resize: ResizeName = "bicubic_antialias"
    num_heads: int | None = None
    img_size: tuple[int, int] | None = None
    pool: PoolName | None = None


def infer_config(state: Mapping[str, Tensor], hints: Hints, account: Account) -> ViTConfig:
    """The config whose model has exactly these weights.

    Args:
        state: by our names.
        hints: of the format.
        account: says where the weights come from, and gets what had to be guessed.

    Raises:
        CheckpointError: a weight that every Vision Transformer has is missing, or the shapes contradict each other.
    """
    source = account.source
    required = ("patch_embed.proj.weight", "pos_embed", "blocks.0.norm1.weight", "blocks.0.attn.qkv.weight")
    absent = [name for name in required if name not in state]
    if absent:
        raise CheckpointError(f"{source}: incomplete: there is nothing that could be {', '.join(absent)}")
    projection = state["patch_embed.proj.weight"]
    if projection.ndim != 4:
        raise CheckpointError(f"{source}: the patch projection has shape {tuple(projection.shape)}, not 4 dimensions")
    dim, channels, *patch = projection.shape
    patch_size = (patch[0], patch[1])
    distilled = "dist_token" in state
    class_token = "cls_token" in state
    img_size, class_position = _positions(state, patch_size, class_token + distilled, hints, source)
    mlp, ratio = mlp_of(state, dim, source)
    pool = hints.pool or _pool(state, class_token)
    head = state.get("head.weight")
    return ViTConfig(
        img_size=simplest(img_size),
        patch_size=simplest(patch_size),
        in_channels=channels,
        num_classes=0 if head is None else head.shape[0],
        embed_dim=dim,
        depth=blocks_in(state, r"blocks\.(\d+)\."),
        num_heads=hints.num_heads or _heads(state, dim, account),
        mlp_ratio=ratio,
        mlp=mlp,
        block="pre_norm" if "blocks.0.norm2.weight" in state else "parallel",
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        qk_norm="blocks.0.attn.q_norm.weight" in state,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,
        class_token=class_token,
        distilled=distilled,
        registers=state["reg_token"].shape[1] if "reg_token" in state else 0,
        mask_token="mask_token" in state,
        class_position=class_position,
        pos_resize=hints.pos_resize,
        fit=fit_of(img_size, patch_size),
        pool=pool,
        pool_norm="fc_norm.weight" in state,
        norm_eps=hints.norm_eps,
    )


def simplest(size: tuple[int, int]) -> int | tuple[int, int]:
    """One number for a square."""
    return size[0] if size[0] == size[1] else size


def fit_of(img_size: tuple[int, int], patch_size: tuple[int, int]) -> FitName:
    """How a model takes pictures of its own size: what patches leave over is cut off (So400m/14 at 384)."""
    return "cut" if any(side % step for side, step in zip(img_size, patch_size, strict=True)) else "error"


def _positions(
    state: Mapping[str, Tensor], patch: tuple[int, int], prefix: int, hints: Hints, source: str
) -> tuple[tuple[int, int], bool]:
    """Pixels of the position table, and whether the prefix tokens have rows in it."""
    rows = state["pos_embed"].shape[1]
    if hints.img_size is not None:
        count = (hints.img_size[0] // patch[0]) * (hints.img_size[1] // patch[1])
        if rows in (count, count + prefix):
            return hints.img_size, prefix > 0 and rows == count + prefix
    for patches in (rows - prefix, rows):
        side = math.isqrt(max(patches, 0))
        if side > 0 and side * side == patches:
            return (side * patch[0], side * patch[1]), prefix > 0 and patches != rows
    raise CheckpointError(
        f"{source}: the position table has {rows} rows, which is no square grid (with or without {prefix} prefix "
        "tokens): its size must stand in a config.json beside it"
    )


def mlp_of(state: Mapping[str, Tensor], dim: int, source: str) -> tuple[MlpName, float]:
    """Kind of the MLP and its ``mlp_ratio``, from its weights by our names."""
    gate = state.get("blocks.0.mlp.w12.weight")
    if gate is not None:
        hidden = gate.shape[0] // 2
        for ratio in (4.0, 1.5 * hidden / dim):
            if swiglu_hidden(dim, ratio) == hidden:
                return "swiglu", ratio
        raise CheckpointError(f"{source}: a gated MLP of width {hidden} does not follow from {dim}-wide tokens")
    first = state.get("blocks.0.mlp.fc1.weight")
    if first is None:
        raise CheckpointError(f"{source}: incomplete: there is nothing that could be blocks.0.mlp.fc1.weight")
    return "gelu", mlp_ratio(first.shape[0], dim)


def mlp_ratio(hidden: int, dim: int) -> float:
    """The ``mlp_ratio`` of a plain MLP by its two widths."""
    ratio = hidden / dim
    # The width is int(dim * ratio): a ratio that rounded down would lose one column.
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


def _heads(state: Mapping[str, Tensor], dim: int, account: Account) -> int:
    norm = state.get("blocks.0.attn.q_norm.weight")
    if norm is not None and norm.shape[0] < dim:
        return dim // norm.shape[0]
    return heads_of(dim, account)


def heads_of(
    dim: int,
    account: Account,
    field: str = "num_heads",
    published: Mapping[int, int] = HEADS_BY_WIDTH,
    key: str = "num_attention_heads (or num_heads)",
) -> int:
    """Heads of the published size of a width, else as many as are 64 wide: a guess, of which the account says so.

    Args:
        dim: width of a token.
        account: gets the note.
        field: of the config, whose number this is.
        published: heads by width.
        key: what would say it in a ``config.json``.

    Raises:
        CheckpointError: neither is possible.
    """
    heads = published.get(dim, 0 if dim % 64 else dim // 64)
    if heads:
        account.assume(field, f"{field} is not in the file: {heads} assumed (width / {dim // heads})")
        return heads
    raise CheckpointError(
        f"{account.source}: how many heads {dim}-wide tokens have does not follow from the shapes: "
        f"put a config.json with {key} beside the file"
    )


def _pool(state: Mapping[str, Tensor], class_token: bool) -> PoolName:
    if "attn_pool.latent" in state:
        return "attention"
    head = state.get("head.weight")
    if head is not None and head.shape[1] == 2 * state["patch_embed.proj.weight"].shape[0]:
        return "class_mean"
    return "mean" if not class_token or "fc_norm.weight" in state else "class"
