"""DETR as its authors name it, and as Transformers does.

Transformers has two ways of naming the blocks (that of the files, and that of the modules in Transformers 5) and two of
naming the ResNet (timm's, which is torchvision's, and its own). All four are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from vitrail.data.preprocess import Preprocess
from vitrail.models import DetrConfig
from vitrail.weights import hf_conv
from vitrail.weights.account import Account
from vitrail.weights.adapt import TRAINING, Adaptation, fit_simple
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.hf import classes_of
from vitrail.weights.names import Format, Name, State, Translated, blocks_in, both, expand, translate

PREPROCESS = Preprocess(size=(800, 1333), crop=1.0, resize="bounded", interpolation="bilinear")
"""How the authors prepare pictures (Carion et al. 2020, section 4)."""

COCO: tuple[str, ...] = ("N/A", *FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])
"""COCO's classes by their numbers, 0 … 90; ``"N/A"`` where there is none of that number."""

HEAD = ("head.class_embed.weight", "head.class_embed.bias")
ADAPTATION = Adaptation(
    from_the_file=frozenset({"num_classes", "num_queries", "mlp_ratio"}),
    # A stride and a dilation have the same weights.
    adaptable=TRAINING | {"num_classes", "in_channels", "img_size", "dilation"},
    fit=fit_simple("backbone.conv1.weight", HEAD),
)


# ---------------------------------------------------------------------- the ResNet

NORM = ("weight", "bias", "running_mean", "running_var")


def resnet_names(depths: Iterable[int]) -> list[str]:
    """Every tensor of a bottleneck ResNet with constant norms, without its classifier, by torchvision's names."""
    names = ["conv1.weight", *(f"bn1.{kind}" for kind in NORM)]
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            place = f"layer{stage}.{block}"
            pairs = [(f"{place}.conv{i}", f"{place}.bn{i}") for i in (1, 2, 3)]
            if block == 0:
                pairs.append((f"{place}.downsample.0", f"{place}.downsample.1"))
            for conv, norm in pairs:
                names += [f"{conv}.weight", *(f"{norm}.{kind}" for kind in NORM)]
    return names


@dataclass(frozen=True)
class Backbone:
    """Where a ResNet stands in a file.

    Attributes:
        prefix: before its names.
        own: in Transformers' own naming, not torchvision's.
    """

    prefix: str
    own: bool = False

    def name(self, ours: str) -> str:
        """What a tensor is called there, from torchvision's name."""
        return self.prefix + (hf_conv.stage_name(ours) if self.own else ours)

    def depths(self, names: Iterable[str]) -> tuple[int, ...]:
        """Blocks of each stage."""
        patterns = [hf_conv.BLOCKS.format(s=i) if self.own else rf"layer{i + 1}\.(\d+)\." for i in range(4)]
        names = list(names)
        return tuple(blocks_in(names, re.escape(self.prefix) + pattern) for pattern in patterns)


FILES, MEMORY = "model.backbone.conv_encoder.model.", "model.backbone.model."
OF_THE_AUTHORS = Backbone("backbone.0.body.")
BACKBONES = (OF_THE_AUTHORS, *(Backbone(prefix, own) for prefix in (FILES, MEMORY) for own in (False, True)))


# ---------------------------------------------------------------------- the transformer


def _authors_attention(ours: str, theirs: str) -> list[Name]:
    """Queries, keys and values stand in one matrix there; :func:`_apart` takes it apart."""
    return [row for part in "qkv" for row in both(f"{ours}.{part}", f"{theirs}.{part}")] + both(
        f"{ours}.proj", f"{theirs}.out_proj"
    )


def _authors_block(kind: str, norms: int) -> list[Name]:
    ours, theirs = f"{kind}.{{i}}", f"transformer.{kind}.layers.{{i}}"
    rows = _authors_attention(f"{ours}.attn", f"{theirs}.self_attn")
    if kind == "decoder":
        rows += _authors_attention(f"{ours}.cross", f"{theirs}.multihead_attn")
    for i in (1, 2):
        rows += both(f"{ours}.mlp.fc{i}", f"{theirs}.linear{i}")
    for i in range(1, norms + 1):
        rows += both(f"{ours}.norm{i}", f"{theirs}.norm{i}")
    return rows


def _hf_attention(ours: str, theirs: str) -> list[Name]:
    rows = [row for part in "qkv" for row in both(f"{ours}.{part}", f"{theirs}.{part}_proj")]
    return rows + both(f"{ours}.proj", f"{theirs}.out_proj") + both(f"{ours}.proj", f"{theirs}.o_proj")


def _hf_block(kind: str, norms: int) -> list[Name]:
    """One block in both namings, the files' first."""
    ours, theirs = f"{kind}.{{i}}", f"model.{kind}.layers.{{i}}"
    rows = _hf_attention(f"{ours}.attn", f"{theirs}.self_attn")
    rows += both(f"{ours}.norm1", f"{theirs}.self_attn_layer_norm")
    if kind == "decoder":
        rows += _hf_attention(f"{ours}.cross", f"{theirs}.encoder_attn")
        rows += both(f"{ours}.norm2", f"{theirs}.encoder_attn_layer_norm")
    for i in (1, 2):
        rows += both(f"{ours}.mlp.fc{i}", f"{theirs}.fc{i}") + both(f"{ours}.mlp.fc{i}", f"{theirs}.mlp.fc{i}")
    return rows + both(f"{ours}.norm{norms}", f"{theirs}.final_layer_norm")


@dataclass(frozen=True)
class Naming:
    """One project's names of all that is not the ResNet.

    Attributes:
        encoder, decoder: rows of a block.
        rest: all others.
    """

    encoder: tuple[Name, ...]
    decoder: tuple[Name, ...]
    rest: tuple[Name, ...]

    def table(self, backbone: Backbone, depths: Iterable[int], encoder: int, decoder: int) -> list[Name]:
        """Every name of a model of that depth."""
        resnet = [Name(f"backbone.{name}", (backbone.name(name),)) for name in resnet_names(depths)]
        return [*resnet, *expand(self.encoder, encoder), *expand(self.decoder, decoder), *self.rest]


AUTHORS = Naming(
    encoder=tuple(_authors_block("encoder", 2)),
    decoder=tuple(_authors_block("decoder", 3)),
    rest=(
        Name("query_embed", ("query_embed.weight",)),
        *both("input_proj", "input_proj"),
        *both("norm", "transformer.decoder.norm"),
        *both("head.class_embed", "class_embed"),
        *(row for i in range(3) for row in both(f"head.bbox_embed.layers.{i}", f"bbox_embed.layers.{i}")),
    ),
)
TRANSFORMERS = Naming(
    encoder=tuple(_hf_block("encoder", 2)),
    decoder=tuple(_hf_block("decoder", 3)),
    rest=(
        Name("query_embed", ("model.query_position_embeddings.weight",)),
        *both("input_proj", "model.input_projection"),
        *both("norm", "model.decoder.layernorm"),
        *both("head.class_embed", "class_labels_classifier"),
        *(row for i in range(3) for row in both(f"head.bbox_embed.layers.{i}", f"bbox_predictor.layers.{i}")),
    ),
)
DROPS = {r".*\.num_batches_tracked": "constant norms do not count batches"}


# ---------------------------------------------------------------------- reading


def recognises_authors(names: frozenset[str]) -> bool:
    """Queries, the first decoder block's cross-attention and the ResNet's stem."""
    block = "transformer.decoder.layers.0.multihead_attn.in_proj_weight"
    return {"query_embed.weight", block, OF_THE_AUTHORS.name("conv1.weight")} <= names


def recognises_transformers(names: frozenset[str]) -> bool:
    """Queries, the first decoder block's self-attention and a ResNet's stem."""
    block = "model.decoder.layers.0.self_attn.q_proj.weight"
    return {"model.query_position_embeddings.weight", block} <= names and _backbone(names) is not None


def _backbone(names: Iterable[str]) -> Backbone | None:
    names = frozenset(names)
    return next((found for found in BACKBONES if found.name("conv1.weight") in names), None)


def read_authors(raw: Raw) -> Translated:
    """A checkpoint of DETR's authors in our words."""
    apart = _apart(raw.tensors)
    account = Account(str(raw.path), AUTHORS_FORMAT.name)
    depths = OF_THE_AUTHORS.depths(apart)
    counts = (blocks_in(apart, rf"transformer\.{kind}\.layers\.(\d+)\.") for kind in ("encoder", "decoder"))
    state = translate(apart, AUTHORS.table(OF_THE_AUTHORS, depths, *counts), DROPS, account)
    for name in raw.tensors:
        ours = [account.translated.pop(part) for part in _parts(name) if part in account.translated]
        if ours:
            account.translated[name] = "+".join(ours)
    config = _config(state, depths, {}, account)
    return Translated(config, state, account, COCO if config.num_classes == len(COCO) else (), PREPROCESS)


def _parts(name: str) -> list[str]:
    """Names of the three matrices or vectors in a joint one; none for any other tensor."""
    place, joint, kind = name.rpartition("in_proj_")
    return [f"{place}{part}.{kind}" for part in "qkv"] if joint else []


def _apart(tensors: Mapping[str, Tensor]) -> State:
    """The same with every joint projection as three."""
    out: State = {}
    for name, tensor in tensors.items():
        parts = _parts(name)
        out |= zip(parts, tensor.chunk(3), strict=False) if parts else {name: tensor}
    return out


def read_transformers(raw: Raw) -> Translated:
    """A ``DetrForObjectDetection`` in our words."""
    account = Account(str(raw.path), TRANSFORMERS_FORMAT.name)
    _require_detr(raw)
    backbone = _backbone(raw.tensors)
    if backbone is None:
        raise CheckpointError(f"{raw.path}: incomplete: there is no ResNet in it")
    depths = backbone.depths(raw.tensors)
    counts = (blocks_in(raw.tensors, rf"model\.{kind}\.layers\.(\d+)\.") for kind in ("encoder", "decoder"))
    state = translate(raw.tensors, TRANSFORMERS.table(backbone, depths, *counts), DROPS, account)
    config = _config(state, depths, raw.config, account)
    classes = classes_of(raw.config)
    if "id2label" not in raw.config and config.num_classes == len(COCO):
        classes = COCO
    return Translated(config, state, account, classes, PREPROCESS)


def _require_detr(raw: Raw) -> None:
    config, resnet = raw.config, raw.config.get("backbone_config") or {}
    heads = config.get("encoder_attention_heads"), config.get("decoder_attention_heads")
    wrong = {
        f"the model {config.get('model_type')!r}": config.get("model_type", "detr") != "detr",
        f"the activation {config.get('activation_function')!r}": config.get("activation_function", "relu") != "relu",
        "learned positions of the picture": config.get("position_embedding_type", "sine") != "sine",
        f"different numbers of heads in encoder and decoder {heads}": heads[0] != heads[1],
        "a ResNet with its strides in the first convolution": bool(resnet.get("downsample_in_bottleneck")),
    }
    found = [reason for reason, holds in wrong.items() if holds]
    if found:
        raise CheckpointError(f"{raw.path}: config.json says {'; '.join(found)}: no DETR that can be had here")


def _config(state: State, depths: tuple[int, ...], stored: Mapping[str, object], account: Account) -> DetrConfig:
    """The architecture from the shapes, and from ``config.json`` what they do not tell."""
    source = account.source
    required = ("query_embed", "backbone.conv1.weight", "encoder.0.mlp.fc1.weight", "decoder.0.norm1.weight", HEAD[0])
    absent = [name for name in required if name not in state]
    if absent or min(depths) < 1:
        lacking = ", ".join(absent) or f"every stage of the ResNet (blocks found: {depths})"
        raise CheckpointError(f"{source}: incomplete: there is nothing that could be {lacking}")
    queries, dim = state["query_embed"].shape
    hidden = state["encoder.0.mlp.fc1.weight"].shape[0]
    if not stored:
        account.assume("dilation", "assumed: stride in the last stage; pass dilation=True for DC5")
    heads = stored.get("encoder_attention_heads")
    ratio = hidden / dim
    return DetrConfig(
        in_channels=state["backbone.conv1.weight"].shape[1],
        num_classes=state[HEAD[0]].shape[0] - 1,
        depths=depths,
        dilation=bool(stored.get("dilation")),
        embed_dim=dim,
        num_heads=heads if isinstance(heads, int) else _heads(dim, account),
        encoder_depth=blocks_in(state, r"encoder\.(\d+)\."),
        decoder_depth=blocks_in(state, r"decoder\.(\d+)\."),
        # The width is int(dim * ratio): a ratio that rounded down would lose one column.
        mlp_ratio=ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf),
        num_queries=queries,
    )


def _heads(dim: int, account: Account) -> int:
    if dim % 32:
        raise CheckpointError(
            f"{account.source}: how many heads {dim}-wide tokens have does not follow from the shapes: "
            "put a config.json with encoder_attention_heads and decoder_attention_heads beside the file"
        )
    account.assume("num_heads", f"num_heads is not in the file: {dim // 32} assumed (width / 32)")
    return dim // 32


AUTHORS_FORMAT = Format("DETR by its authors", recognises_authors, read_authors)
TRANSFORMERS_FORMAT = Format("Transformers (detr)", recognises_transformers, read_transformers)
FORMATS = (AUTHORS_FORMAT, TRANSFORMERS_FORMAT)
