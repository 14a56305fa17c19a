"""The image tower, or the pair of towers, that a set of weights by our names belongs to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import Tensor

from vitrail.data.preprocess import HALF_MEAN, HALF_STD, Preprocess
from vitrail.heads import PoolName
from vitrail.models import DualEncoderConfig, ImageTowerConfig
from vitrail.nn.activation import ActivationName
from vitrail.nn.embed import as_pair
from vitrail.nn.position import ResizeName
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.infer import fit_of, heads_of, mlp_ratio, simplest
from vitrail.weights.names import State, blocks_in

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CLIP_PREPROCESS = Preprocess(crop=1.0, mean=CLIP_MEAN, std=CLIP_STD)
SIGLIP_PREPROCESS = Preprocess(crop=1.0, resize="squash", mean=HALF_MEAN, std=HALF_STD)
"""How the authors prepare pictures, at 224."""

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")

Clean = Literal["none", "lower", "canonical"]


@dataclass(frozen=True)
class TowerHints:
    """What shapes do not tell of an image tower; None leaves it to the published sizes.

    Attributes:
        activation: of the MLPs.
        norm_eps: epsilon of the norms.
        pos_resize: the format's way of resizing positions.
        num_heads: heads of a block.
        img_size: pixels that the positions were learned on.
        pool: what a classifier reads.
    """

    activation: ActivationName
    norm_eps: float
    pos_resize: ResizeName
    num_heads: int | None = None
    img_size: int | tuple[int, int] | None = None
    pool: PoolName | None = None


@dataclass(frozen=True)
class TextHints:
    """The same of a text tower.

    Attributes:
        num_heads: heads of a block.
        end_token, pad_token: None for the last of the vocabulary (CLIP), or those of SigLIP's vocabularies.
    """

    num_heads: int | None = None
    end_token: int | None = None
    pad_token: int | None = None


def as_row(parts: Sequence[Tensor]) -> Tensor:
    """A token or a table of positions as ``(1, rows, width)``."""
    return parts[0].reshape(1, -1, parts[0].shape[-1])


def as_number(parts: Sequence[Tensor]) -> Tensor:
    """A single number, however it was wrapped."""
    return parts[0].reshape(())


def transposed(parts: Sequence[Tensor]) -> Tensor:
    """A matrix that multiplies from the right as the weight of a linear layer."""
    return parts[0].T


def part_of(state: Mapping[str, Tensor], tower: str) -> State:
    """The weights of one tower by the tower's own names."""
    return {name.removeprefix(f"{tower}."): t for name, t in state.items() if name.startswith(f"{tower}.")}


def tokenizer_files(raw: Raw) -> dict[str, str]:
    """The tokenizer beside a checkpoint: one file where there is one, else vocabulary and merges."""
    found = raw.texts(*TOKENIZER_FILES)
    return {"tokenizer.json": found["tokenizer.json"]} if "tokenizer.json" in found else found


def _require(state: Mapping[str, Tensor], names: Sequence[str], source: str) -> None:
    absent = [name for name in names if name not in state]
    if absent:
        raise CheckpointError(f"{source}: incomplete: there is nothing that could be {', '.join(absent)}")


def infer_tower(state: Mapping[str, Tensor], hints: TowerHints, account: Account) -> ImageTowerConfig:
    """The config whose model has exactly these weights.

    Raises:
        CheckpointError: a weight that every image tower has is missing.
    """
    source = account.source
    _require(state, ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"), source)
    dim, channels, *patch = state["patch_embed.proj.weight"].shape
    patch_size = (patch[0], patch[1])
    class_token = "cls_token" in state
    head = state.get("head.weight")
    img_size = _image_size(state["pos_embed"].shape[1] - class_token, patch_size, hints.img_size, source)
    return ImageTowerConfig(
        img_size=simplest(img_size),
        patch_size=simplest(patch_size),
        in_channels=channels,
        num_classes=0 if head is None else head.shape[0],
        embed_dim=dim,
        depth=blocks_in(state, r"blocks\.(\d+)\."),
        num_heads=hints.num_heads or heads_of(dim, account),
        mlp_ratio=mlp_ratio(state["blocks.0.mlp.fc1.weight"].shape[0], dim),
        class_token=class_token,
        pool=hints.pool or _pool(state, class_token),
        pool_norm="fc_norm.weight" in state,
        norm_eps=hints.norm_eps,
        activation=hints.activation,
        embed_norm="norm_pre.weight" in state,
        pos_resize=hints.pos_resize,
        fit=fit_of(img_size, patch_size),
    )


def _pool(state: Mapping[str, Tensor], class_token: bool) -> PoolName:
    if "attn_pool.latent" in state:
        return "attention"
    return "class" if class_token and "fc_norm.weight" not in state else "mean"


def _image_size(rows: int, patch: tuple[int, int], told: int | tuple[int, int] | None, source: str) -> tuple[int, int]:
    if told is not None:
        size = as_pair(told)
        if (size[0] // patch[0]) * (size[1] // patch[1]) == rows:
            return size
        raise CheckpointError(f"{source}: {rows} positions are not those of pictures of {size[0]}x{size[1]}")
    side = math.isqrt(max(rows, 0))
    if side * side != rows or not side:
        raise CheckpointError(
            f"{source}: {rows} positions are no square grid: the size must stand in a config.json beside it"
        )
    return side * patch[0], side * patch[1]


def infer_pair(state: Mapping[str, Tensor], image: TowerHints, text: TextHints, account: Account) -> DualEncoderConfig:
    """The config of a pair: of SigLIP's kind where the image tower pools by attention, else of CLIP's.

    Raises:
        CheckpointError: a weight that every pair has is missing.
    """
    tower = infer_tower(part_of(state, "image"), image, account)
    names = ("text.token_embed.weight", "text.pos_embed", "text.blocks.0.mlp.fc1.weight", "text_proj.weight")
    _require(state, names, account.source)
    vocab, dim = state["text.token_embed.weight"].shape
    siglip = tower.pool == "attention"
    last = 1 if siglip else vocab - 1
    end = last if text.end_token is None else text.end_token
    default_pad = SIGLIP_PADS.get(vocab, 1) if siglip else end
    return DualEncoderConfig(
        **asdict(tower),
        text_dim=dim,
        text_depth=blocks_in(state, r"text\.blocks\.(\d+)\."),
        text_heads=text.num_heads or heads_of(dim, account, "text_heads"),
        text_mlp_ratio=mlp_ratio(state["text.blocks.0.mlp.fc1.weight"].shape[0], dim),
        vocab_size=vocab,
        context_length=state["text.pos_embed"].shape[1],
        end_token=end,
        pad_token=default_pad if text.pad_token is None else text.pad_token,
        clean=_clean(siglip, vocab),
        text_causal=not siglip,
        text_pool="last" if siglip else "end",
        joint_dim=state["text_proj.weight"].shape[0],
        image_projection=not siglip or "image_proj.weight" in state,
        text_projection_bias=siglip or "text_proj.bias" in state,
        loss="sigmoid" if siglip or "logit_bias" in state else "softmax",
    )


GEMMA = 256_000
SIGLIP_PADS = {GEMMA: 0}
"""Padding by the size of the vocabulary; SigLIP's own pads with the end of the sentence, number 1."""


def _clean(siglip: bool, vocab: int) -> Clean:
    """SigLIP's sentences have neither capitals nor punctuation; those of its successor, read by Gemma, no capitals."""
    if not siglip:
        return "none"
    return "lower" if vocab == GEMMA else "canonical"


def authors_preprocess(config: ImageTowerConfig) -> Preprocess:
    """How the authors of such models prepare pictures; CLIP's towers have a class token, SigLIP's have none."""
    kind = CLIP_PREPROCESS if config.class_token else SIGLIP_PREPROCESS
    return replace(kind, size=as_pair(config.img_size))


def numbers(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A nested object of a JSON file, empty when it is not there."""
    value = config.get(key)
    return value if isinstance(value, Mapping) else {}
