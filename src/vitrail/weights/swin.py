"""Swin in everybody's naming: its authors', timm's old and new one, the OpenMMLab toolkits', Transformers' two.

They agree on the parts and differ in names, in where a merging of patches is counted (behind a stage, or before the
next one as here) and, for OpenMMLab, in the order of the four patches that a merging sets side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.models import SwinConfig
from vitrail.nn.embed import as_pair
from vitrail.nn.relative import BiasResizeName, distances
from vitrail.weights import hf, timm
from vitrail.weights.account import Account
from vitrail.weights.dense import DENSE_DROPS
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.infer import mlp_ratio, simplest
from vitrail.weights.names import Format, Name, State, Translated, blocks_in, both, translate

TABLE = "relative_position_bias_table"
OUR_TABLE = f"attn.mixer.position_bias.{TABLE}"
NORM_EPS = 1e-5

BUFFERS = {
    r".*\.relative_position_index": "an index that is computed here",
    r".*\.attn_mask": "the mask of moved windows, which is computed here",
}


@dataclass(frozen=True)
class Naming:
    """How one project names a Swin.

    Attributes:
        top: what stands outside the stages.
        stage: of a stage, with ``{s}`` for its number.
        block: what stands in a block, on both sides behind its own prefix.
        merging: the parts of a merging of patches.
        merged_before: whether a merging is counted to the stage that it opens; else to the one that it closes.
    """

    top: tuple[Name, ...]
    stage: str
    block: tuple[Name, ...]
    merging: tuple[Name, ...]
    merged_before: bool

    def table(self, depths: Sequence[int]) -> list[Name]:
        """Every name of a model of these depths."""
        rows = list(self.top)
        for stage, depth in enumerate(depths):
            theirs = self.stage.replace("{s}", str(stage))
            for i in range(depth):
                rows += _behind(self.block, f"layers.{stage}.blocks.{i}.", f"{theirs}.blocks.{i}.")
            if stage:
                closed = self.stage.replace("{s}", str(stage if self.merged_before else stage - 1))
                rows += _behind(self.merging, f"layers.{stage}.downsample.", f"{closed}.downsample.")
        return rows


def _behind(rows: Sequence[Name], ours: str, theirs: str) -> list[Name]:
    return [Name(ours + row.ours, tuple(theirs + part for part in row.theirs), row.join) for row in rows]


def _from_unfold(parts: Sequence[Tensor]) -> Tensor:
    """A merging's columns out of OpenMMLab's order: there channel by channel, each with its four places row by row."""
    by_place = parts[0].unflatten(-1, (-1, 4)).movedim(-1, -2)
    return by_place[..., [0, 2, 1, 3], :].flatten(-2)


MERGING = (*both("norm", "norm"), Name("reduction.weight", ("reduction.weight",)))
TIMM_TOP = (*both("patch_embed.proj", "patch_embed.proj"), *both("patch_norm", "patch_embed.norm"))
TIMM_BLOCK = (
    *(row for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2") for row in both(part, part)),
    *(row for part in ("qkv", "proj") for row in both(f"attn.mixer.{part}", f"attn.{part}")),
    Name(OUR_TABLE, (f"attn.{TABLE}",)),
)
TIMM = Naming((*TIMM_TOP, *both("norm", "norm"), *both("head", "head.fc")), "layers.{s}", TIMM_BLOCK, MERGING, True)
AUTHORS = Naming((*TIMM_TOP, *both("norm", "norm"), *both("head", "head")), "layers.{s}", TIMM_BLOCK, MERGING, False)
OPENMMLAB = Naming(
    (
        *both("patch_embed.proj", "patch_embed.projection"),
        *both("patch_norm", "patch_embed.norm"),
        *both("norm", "norm"),
        *both("head", "head.fc"),
    ),
    "stages.{s}",
    (
        *(row for part in ("norm1", "norm2") for row in both(part, part)),
        *(row for part in ("qkv", "proj") for row in both(f"attn.mixer.{part}", f"attn.w_msa.{part}")),
        Name(OUR_TABLE, (f"attn.w_msa.{TABLE}",)),
        *both("mlp.fc1", "ffn.layers.0.0"),
        *both("mlp.fc2", "ffn.layers.1"),
    ),
    tuple(Name(row.ours, row.theirs, _from_unfold) for row in MERGING),
    False,
)
TRANSFORMERS = Naming(
    (
        *both("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        *both("patch_norm", "embeddings.norm"),
        *both("norm", "layernorm"),
        *both("head", "classifier"),
    ),
    "encoder.layers.{s}",
    (
        *both("norm1", "layernorm_before"),
        *both("attn.mixer.qkv", tuple(f"attention.self.{part}" for part in hf.QKV)),
        *both("attn.mixer.qkv", tuple(f"attention.{part}" for part in hf.IN_MEMORY)),
        Name(OUR_TABLE, (f"attention.self.{TABLE}",)),
        Name(OUR_TABLE, (f"attention.relative_position_bias.{TABLE}",)),
        *both("attn.mixer.proj", "attention.output.dense"),
        *both("attn.mixer.proj", "attention.o_proj"),
        *both("norm2", "layernorm_after"),
        *both("mlp.fc1", "intermediate.dense"),
        *both("mlp.fc1", "mlp.fc1"),
        *both("mlp.fc2", "output.dense"),
        *both("mlp.fc2", "mlp.fc2"),
    ),
    MERGING,
    False,
)
"""The files' names first, which are those written; then the ones of the modules in Transformers 5."""

# ---------------------------------------------------------------------- reading


def _bare(name: str) -> str:
    return name.removeprefix("backbone.").removeprefix("swin.")


def timm_recognises(names: frozenset[str]) -> bool:
    """Joint ``qkv`` and a table of distances in ``layers.{s}.blocks.{i}.attn``."""
    return {"layers.0.blocks.0.attn.qkv.weight", f"layers.0.blocks.0.attn.{TABLE}"} <= {_bare(n) for n in names}


def openmmlab_recognises(names: frozenset[str]) -> bool:
    """Windowed attention as OpenMMLab names it."""
    return {"stages.0.blocks.0.attn.w_msa.qkv.weight", f"stages.0.blocks.0.attn.w_msa.{TABLE}"} <= {
        _bare(n) for n in names
    }


def transformers_recognises(names: frozenset[str]) -> bool:
    """Blocks inside of Transformers' layers, with a table of distances."""
    bare = {_bare(name) for name in names}
    places = ("self", "relative_position_bias")
    return any(f"encoder.layers.0.blocks.0.attention.{place}.{TABLE}" in bare for place in places)


def _state(raw: Raw, naming: Naming, drops: Mapping[str, str], account: Account) -> State:
    tensors = {_bare(name): tensor for name, tensor in raw.tensors.items()}
    pattern = naming.stage.replace(".", r"\.").replace("{s}", r"(\d+)") + r"\.blocks\."
    stages = blocks_in(tensors, pattern)
    depths = [blocks_in(tensors, pattern.replace(r"(\d+)", str(s)) + r"(\d+)\.") for s in range(stages)]
    rows = naming.table(depths)
    # A detector's backbone has a norm for each feature map: that of the last stage is the model's.
    rows += both("norm", f"norm{stages - 1}") + both("norm", f"hidden_states_norms.stage{stages}")
    return translate(tensors, rows, {**BUFFERS, **DENSE_DROPS, **drops}, account)


def read_timm(raw: Raw) -> Translated:
    """The authors' files, and timm's of either age; only timm's new layout is timm's alone."""
    new = not any(_bare(name) == "layers.0.downsample.reduction.weight" for name in raw.tensors)
    account = Account(str(raw.path), TIMM_FORMAT.name)
    state = _state(raw, TIMM if new else AUTHORS, {}, account)
    arguments = raw.config.get("model_args") or {}
    window = arguments.get("window_size")
    hints = Hints(
        img_size=timm.img_size_of(raw.config),
        window_size=window if isinstance(window, int) else None,
        bias_resize="geometric" if new else "bicubic",
    )
    return Translated(infer(state, hints, account), state, account, timm.classes_of(raw.config))


def read_openmmlab(raw: Raw) -> Translated:
    """Files of mmpretrain, mmdetection and mmsegmentation."""
    account = Account(str(raw.path), OPENMMLAB_FORMAT.name)
    state = _state(raw, OPENMMLAB, {}, account)
    return Translated(infer(state, Hints(), account), state, account)


def read_transformers(raw: Raw) -> Translated:
    """Transformers' Swin of either naming; the decoder of masked pretraining is left behind."""
    account = Account(str(raw.path), TRANSFORMERS_FORMAT.name)
    config = raw.config
    hf.require_declared(raw, "swin")
    if float(config.get("layer_norm_eps", NORM_EPS)) != NORM_EPS:
        raise CheckpointError(f"{raw.path}: its norms have different epsilons, 1e-5 and {config['layer_norm_eps']}")
    drops = {
        r"embeddings\.mask_token": "the token of masked image modelling, which this model was not built for",
        r"decoder\..*": "the decoder of masked image modelling",
    }
    state = _state(raw, TRANSFORMERS, drops, account)
    size = config.get("image_size")
    hints = Hints(None if size is None else as_pair(size if isinstance(size, int) else (size[0], size[1])))
    return Translated(infer(state, hints, account), state, account, hf.classes_of(config))


# ---------------------------------------------------------------------- what the tensors are the weights of


@dataclass(frozen=True)
class Hints:
    """What shapes do not tell and the format (or a ``config.json``) does.

    Attributes:
        img_size: pixels that the model is made for.
        window_size: patches along a side of a window, needed when windows are not square.
        bias_resize: the format's way of bringing the table of distances to another window.
    """

    img_size: tuple[int, int] | None = None
    window_size: int | None = None
    bias_resize: BiasResizeName = "bicubic"


def infer(state: Mapping[str, Tensor], hints: Hints, account: Account) -> SwinConfig:
    """The config whose model has exactly these weights.

    Raises:
        CheckpointError: a weight that every Swin has is missing, or the shapes contradict each other.
    """
    source = account.source
    stages = blocks_in(state, r"layers\.(\d+)\.")
    firsts = [f"layers.{stage}.blocks.0.{OUR_TABLE}" for stage in range(stages)]
    required = ("patch_embed.proj.weight", "layers.0.blocks.0.mlp.fc1.weight", *firsts)
    absent = [name for name in required if name not in state]
    if absent:
        raise CheckpointError(f"{source}: incomplete: there is nothing that could be {', '.join(absent)}")
    dim, channels, *patch = state["patch_embed.proj.weight"].shape
    tables = [state[name] for name in firsts]
    head = state.get("head.weight")
    try:
        config = SwinConfig(
            img_size=simplest(hints.img_size) if hints.img_size else 224 // patch[0] * patch[0],
            patch_size=simplest((patch[0], patch[1])),
            in_channels=channels,
            num_classes=0 if head is None else head.shape[0],
            embed_dim=dim,
            depths=tuple(blocks_in(state, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)),
            num_heads=tuple(table.shape[1] for table in tables),
            mlp_ratio=mlp_ratio(state["layers.0.blocks.0.mlp.fc1.weight"].shape[0], dim),
            qkv_bias="layers.0.blocks.0.attn.mixer.qkv.bias" in state,
            bias_resize=hints.bias_resize,
            norm_eps=NORM_EPS,
        )
        return _with_windows(config, [len(table) for table in tables], hints, account)
    except (VitrailError, IndexError) as error:
        raise CheckpointError(f"{source}: its shapes make no Swin: {error}") from error


def _with_windows(config: SwinConfig, rows: Sequence[int], hints: Hints, account: Account) -> SwinConfig:
    """The windows that tables with so many rows are for, and a size at which the stages have room for them."""

    def fits(candidate: SwinConfig) -> bool:
        return [math.prod(distances(window)) for window in candidate.windows] == list(rows)

    if hints.window_size is not None:
        candidate = replace(config, window_size=hints.window_size)
        if fits(candidate):
            return candidate
    sides = [(math.isqrt(count) + 1) // 2 for count in rows]
    candidate = replace(config, window_size=sides[0] if len(set(sides)) == 1 else tuple(sides))
    if hints.img_size is not None and fits(candidate):
        return candidate
    needed = max(side * 2**stage for stage, side in enumerate(sides))
    height, width = (needed * patch for patch in as_pair(config.patch_size))
    candidate = replace(candidate, img_size=simplest((height, width)))
    if not fits(candidate):
        raise CheckpointError(
            f"the tables of distances have {', '.join(map(str, rows))} rows, which are no square windows: their size "
            "must stand in a config.json beside the file"
        )
    if hints.img_size is not None:
        account.notes.append(f"pictures of {hints.img_size} leave no room for its windows: made for {height}x{width}")
    return candidate


TIMM_FORMAT = Format("Swin by its authors or timm", timm_recognises, read_timm)
OPENMMLAB_FORMAT = Format("Swin of OpenMMLab", openmmlab_recognises, read_openmmlab)
TRANSFORMERS_FORMAT = Format("Transformers (swin)", transformers_recognises, read_transformers)
FORMATS = (TIMM_FORMAT, OPENMMLAB_FORMAT, TRANSFORMERS_FORMAT)
