"""SAM in its authors' naming (``.pth``) and in Transformers', and its image encoder alone in Transformers' and timm's.

Transformers stores the frequencies of positions once or twice, by its version; the names are otherwise those of old.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.preprocess import Preprocess
from vitrail.models import SamConfig, SamEncoderConfig
from vitrail.nn.embed import as_pair
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.names import Format, Name, State, Translated, blocks_in, both, expand, rename, translate
from vitrail.weights.timm import classes_of

ENCODER = "image_encoder."
REL_POS = "blocks.{}.attn.position_bias.rel_pos_h"


@dataclass(frozen=True)
class Naming:
    """One project's names of the parts of SAM.

    Attributes:
        name: of the project.
        encoder: before the names of the image encoder.
        block: of a block, with ``{i}``.
        rows: of the image encoder, without the prefix.
        heads: of prompt encoder and mask decoder; None where the project has the image encoder only.
    """

    name: str
    encoder: str
    block: str
    rows: tuple[Name, ...]
    heads: Callable[[int, int], list[Name]] | None


def _encoder_rows(block: str, norm: str, mlp: tuple[str, str], patches: str, neck: tuple[str, ...]) -> tuple[Name, ...]:
    ours = "blocks.{i}"
    convolution1, norm1, convolution2, norm2 = neck
    return (
        Name("pos_embed", ("pos_embed",)),
        *both("patch_embed.proj", patches),
        *both(f"{ours}.norm1", f"{block}.{norm}1"),
        *both(f"{ours}.attn.qkv", f"{block}.attn.qkv"),
        *both(f"{ours}.attn.proj", f"{block}.attn.proj"),
        *both(f"{ours}.attn.position_bias", f"{block}.attn", "rel_pos_h", "rel_pos_w"),
        *both(f"{ours}.norm2", f"{block}.{norm}2"),
        *both(f"{ours}.mlp.fc1", f"{block}.mlp.{mlp[0]}"),
        *both(f"{ours}.mlp.fc2", f"{block}.mlp.{mlp[1]}"),
        Name("neck.0.weight", (f"{convolution1}.weight",)),
        *both("neck.1", norm1),
        Name("neck.2.weight", (f"{convolution2}.weight",)),
        *both("neck.3", norm2),
    )


def _transformer_rows(norm: str, final_norm: str) -> list[Name]:
    """The two-way transformer, whose names differ in the norms only."""
    ours, theirs = "mask_decoder.transformer.blocks.{i}", "mask_decoder.transformer.layers.{i}"
    attentions = (
        (f"{ours}.attn", f"{theirs}.self_attn"),
        (f"{ours}.image_attn", f"{theirs}.cross_attn_token_to_image"),
        (f"{ours}.query_attn", f"{theirs}.cross_attn_image_to_token"),
        ("mask_decoder.transformer.final_attn", "mask_decoder.transformer.final_attn_token_to_image"),
    )
    parts = (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("proj", "out_proj"))
    return [
        *(row for one, other in attentions for a, b in parts for row in both(f"{one}.{a}", f"{other}.{b}")),
        *(row for n in (1, 2, 3, 4) for row in both(f"{ours}.norm{n}", f"{theirs}.{norm}{n}")),
        *(row for n in (1, 2) for row in both(f"{ours}.mlp.fc{n}", f"{theirs}.mlp.lin{n}")),
        *both("mask_decoder.transformer.final_norm", f"mask_decoder.transformer.{final_norm}"),
        Name("mask_decoder.iou_token", ("mask_decoder.iou_token.weight",)),
        Name("mask_decoder.mask_tokens", ("mask_decoder.mask_tokens.weight",)),
        Name("prompt_encoder.no_mask", ("prompt_encoder.no_mask_embed.weight",)),
    ]


def _mlp_rows(layers: tuple[str, str, str], masks: int) -> list[Name]:
    """The MLPs of three layers: one for each mask, one for the quality."""
    pairs = [(f"hyper.{m}", f"output_hypernetworks_mlps.{m}") for m in range(masks)]
    return [
        row
        for ours, theirs in [*pairs, ("iou_head", "iou_prediction_head")]
        for number, layer in zip((0, 3, 6), layers, strict=True)
        for row in both(f"mask_decoder.{ours}.{number}", f"mask_decoder.{theirs}.{layer}")
    ]


def _kinds(points: str) -> Name:
    theirs = ("prompt_encoder.not_a_point_embed.weight", *(f"prompt_encoder.{points}.{n}.weight" for n in range(4)))
    return Name("prompt_encoder.kinds", theirs)


def _authors_heads(depth: int, masks: int) -> list[Name]:
    shrink, upscale = "prompt_encoder.mask_downscaling", "mask_decoder.output_upscaling"
    return [
        Name("prompt_encoder.positions.frequencies", ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",)),
        _kinds("point_embeddings"),
        *(row for n in (0, 1, 3, 4, 6) for row in both(f"prompt_encoder.shrink.{n}", f"{shrink}.{n}")),
        *expand(_transformer_rows("norm", "norm_final_attn"), depth),
        *(row for n in (0, 1, 3) for row in both(f"mask_decoder.upscale.{n}", f"{upscale}.{n}")),
        *_mlp_rows(("layers.0", "layers.1", "layers.2"), masks),
    ]


def _transformers_heads(depth: int, masks: int) -> list[Name]:
    shrink = zip((0, 1, 3, 4, 6), ("conv1", "layer_norm1", "conv2", "layer_norm2", "conv3"), strict=True)
    upscale = zip((0, 1, 3), ("upscale_conv1", "upscale_layer_norm", "upscale_conv2"), strict=True)
    return [
        Name("prompt_encoder.positions.frequencies", ("shared_image_embedding.positional_embedding",)),
        _kinds("point_embed"),
        *(row for n, part in shrink for row in both(f"prompt_encoder.shrink.{n}", f"prompt_encoder.mask_embed.{part}")),
        *expand(_transformer_rows("layer_norm", "layer_norm_final_attn"), depth),
        *(row for n, part in upscale for row in both(f"mask_decoder.upscale.{n}", f"mask_decoder.{part}")),
        *_mlp_rows(("proj_in", "layers.0", "proj_out"), masks),
    ]


AUTHORS = Naming(
    "SAM's authors",
    ENCODER,
    "blocks.{i}",
    _encoder_rows("blocks.{i}", "norm", ("lin1", "lin2"), "patch_embed.proj", ("neck.0", "neck.1", "neck.2", "neck.3")),
    _authors_heads,
)
TRANSFORMERS = Naming(
    "Transformers (sam)",
    "vision_encoder.",
    "layers.{i}",
    _encoder_rows(
        "layers.{i}",
        "layer_norm",
        ("lin1", "lin2"),
        "patch_embed.projection",
        ("neck.conv1", "neck.layer_norm1", "neck.conv2", "neck.layer_norm2"),
    ),
    _transformers_heads,
)
TIMM = Naming(
    "timm (samvit)",
    "",
    "blocks.{i}",
    (
        *_encoder_rows(
            "blocks.{i}", "norm", ("fc1", "fc2"), "patch_embed.proj", ("neck.0", "neck.1", "neck.2", "neck.3")
        ),
        *both("head", "head.fc"),
    ),
    None,
)
NAMINGS = (AUTHORS, TRANSFORMERS, TIMM)
DROPS = {r"prompt_encoder\.shared_embedding\.positional_embedding": "the frequencies of positions a second time"}


def recognises(names: frozenset[str]) -> bool:
    """Tables of decomposed positions in the first block, and the neck."""
    return _naming(names) is not None


def _naming(names: frozenset[str]) -> Naming | None:
    for naming in NAMINGS:
        block = naming.encoder + naming.block.replace("{i}", "0")
        neck = next(row.theirs[0] for row in naming.rows if row.ours == "neck.0.weight")
        if {f"{block}.attn.rel_pos_h", naming.encoder + neck} <= names:
            return naming
    return None


def table(naming: Naming, depth: int, heads: tuple[int, int] | None) -> list[Name]:
    """Every name of a model, attention in windows not told apart from other attention.

    Args:
        naming: whose.
        depth: blocks of the image encoder.
        heads: blocks of the mask decoder and number of its masks; None for the image encoder alone.
    """
    inside = "" if heads is None else ENCODER
    encoder = [
        Name(inside + row.ours, tuple(naming.encoder + part for part in row.theirs), row.join)
        for row in expand(naming.rows, depth)
    ]
    return encoder if heads is None or naming.heads is None else encoder + naming.heads(*heads)


def read(raw: Raw) -> Translated:
    """SAM or its image encoder in our words."""
    names = frozenset(raw.tensors)
    naming = _naming(names) or AUTHORS
    account = Account(str(raw.path), naming.name)
    pattern = (naming.encoder + naming.block).replace(".", r"\.").replace("{i}", r"(\d+)")
    tokens = raw.tensors.get("mask_decoder.mask_tokens.weight")
    heads = None
    if tokens is not None:
        heads = (blocks_in(names, r"mask_decoder\.transformer\.layers\.(\d+)\."), len(tokens))
    elif naming is AUTHORS:
        raise CheckpointError(f"{raw.path}: incomplete: there is nothing that could be mask_decoder.mask_tokens")
    state = translate(raw.tensors, table(naming, blocks_in(names, pattern + r"\."), heads), DROPS, account)
    try:
        config = _config(state, raw, "" if heads is None else ENCODER)
    except KeyError as error:
        raise CheckpointError(f"{raw.path}: incomplete: there is nothing that could be {error}") from error
    except (VitrailError, IndexError, ValueError) as error:
        raise CheckpointError(f"{raw.path}: its weights do not make a model: {error}") from error
    inner = windowed(config, state)
    account.translated = {theirs: inner.get(ours, ours) for theirs, ours in account.translated.items()}
    state = {inner.get(name, name): tensor for name, tensor in state.items()}
    classes = classes_of(raw.config) if config.num_classes else ()
    return Translated(config, state, account, classes, preprocess_of(config))


def preprocess_of(config: SamEncoderConfig) -> Preprocess:
    """How the authors prepare pictures: the long side to the model's size, the rest filled with the mean colour."""
    return Preprocess(as_pair(config.img_size), crop=1.0, resize="longest", interpolation="bilinear")


def windowed(config: SamEncoderConfig, state: Mapping[str, Tensor]) -> dict[str, str]:
    """From names that take no notice of windows to those of our model."""
    prefix = ENCODER if isinstance(config, SamConfig) else ""
    found = {}
    for number in set(range(config.depth)) - set(config.global_blocks):
        outer = f"{prefix}blocks.{number}.attn."
        for name in state:
            if name.startswith(outer):
                found[name] = f"{outer}mixer.{name.removeprefix(outer).removeprefix('mixer.')}"
    return found


def _config(state: State, raw: Raw, prefix: str) -> SamEncoderConfig:
    """Every number from the shapes, but for the decoder's heads and epsilons, which a ``config.json`` may tell."""
    stored = raw.config
    vision: Mapping[str, Any] = stored.get("vision_config") or stored
    decoder: Mapping[str, Any] = stored.get("mask_decoder_config") or {}
    prompt: Mapping[str, Any] = stored.get("prompt_encoder_config") or {}
    for values, wanted in ((vision, "gelu"), (prompt, "gelu"), (decoder, "relu")):
        if values.get("hidden_act", wanted) != wanted:
            raise ValueError(f"the activation {values['hidden_act']!r} is not {wanted!r}")
    positions, projection = state[f"{prefix}pos_embed"], state[f"{prefix}patch_embed.proj.weight"]
    _, rows, columns, dim = positions.shape
    depth = blocks_in(state, prefix.replace(".", r"\.") + r"blocks\.(\d+)\.")
    tables = [state[prefix + REL_POS.format(number)] for number in range(depth)]
    whole, window = _global_blocks(tables, rows, vision)
    size = (rows * projection.shape[2], columns * projection.shape[3])
    head = state.get("head.weight")
    encoder: dict[str, Any] = {
        "img_size": size[0] if size[0] == size[1] else size,
        "in_channels": projection.shape[1],
        "num_classes": 0 if head is None else len(head),
        "patch_size": _simplest(projection.shape[2], projection.shape[3]),
        "embed_dim": dim,
        "depth": depth,
        "num_heads": dim // tables[0].shape[1],
        "mlp_ratio": len(state[f"{prefix}blocks.0.mlp.fc1.bias"]) / dim,
        "window": window,
        "global_blocks": whole,
        "neck_dim": len(state[f"{prefix}neck.0.weight"]),
        "norm_eps": float(vision.get("layer_norm_eps", 1e-6)),
    }
    if not prefix:
        return SamEncoderConfig(**encoder)
    return SamConfig(
        **encoder,
        decoder_depth=blocks_in(state, r"mask_decoder\.transformer\.blocks\.(\d+)\."),
        decoder_heads=int(decoder.get("num_attention_heads", 8)),
        decoder_mlp_dim=len(state["mask_decoder.transformer.blocks.0.mlp.fc1.bias"]),
        decoder_eps=float(decoder.get("layer_norm_eps", 1e-5)),
        mask_channels=len(state["prompt_encoder.shrink.3.bias"]),
        num_masks=len(state["mask_decoder.mask_tokens"]) - 1,
        iou_dim=len(state["mask_decoder.iou_head.0.bias"]),
    )


def _simplest(height: int, width: int) -> int | tuple[int, int]:
    return height if height == width else (height, width)


def _global_blocks(tables: list[Tensor], rows: int, vision: Mapping[str, Any]) -> tuple[tuple[int, ...], int]:
    """Which blocks see the whole grid, and the window of the others: by the lengths of their tables.

    Where windows are as large as the grid, lengths do not tell; then ``config.json`` does, if there is one.
    """
    lengths = [len(table) for table in tables]
    whole = tuple(number for number, length in enumerate(lengths) if length == 2 * rows - 1)
    others = {length for length in lengths if length != 2 * rows - 1}
    if len(others) > 1:
        raise ValueError(f"relative positions of {sorted(others)} rows in one model")
    window = (others.pop() + 1) // 2 if others else int(vision.get("window_size", 14))
    if len(whole) == len(tables) and window == rows:
        whole = tuple(vision.get("global_attn_indexes", whole))
    return whole, window


def write(naming: Naming, config: SamEncoderConfig, state: Mapping[str, Tensor]) -> State:
    """Our weights under a project's names."""
    heads = (config.decoder_depth, config.num_masks + 1) if isinstance(config, SamConfig) else None
    flat = {name.replace(".attn.mixer.", ".attn."): tensor for name, tensor in state.items()}
    return rename(flat, table(naming, config.depth, heads))


FORMAT = Format("SAM", recognises, read)
