"""SigLIP's own ``.npz``: both towers in big_vision's naming, under ``img`` and ``txt``."""

from __future__ import annotations

from vitrail.weights import google
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.infer_clip import TextHints, TowerHints, as_number, authors_preprocess, infer_pair
from vitrail.weights.names import Format, Name, Translated, blocks_in, expand, translate

PREFIXES = ("", "params/", "opt/target/")
IMAGE, TEXT = "img/Transformer/", "txt/Encoder_0/"
QUERY = "encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"
DROPS = {r"opt/(?!target/).*": "the optimiser's state"}


def recognises(names: frozenset[str]) -> bool:
    """An image tower's patches, and a text tower beside it."""
    prefix = _prefix(names)
    return prefix is not None and any(name.startswith(f"{prefix}txt/") for name in names)


def _prefix(names: frozenset[str]) -> str | None:
    return next((prefix for prefix in PREFIXES if f"{prefix}img/embedding/kernel" in names), None)


def _under(ours: str, theirs: str, rows: list[Name], root: str = google.ROOT) -> list[Name]:
    """Google's rows for one of the towers, whose blocks stand under ``root``."""
    return [
        Name(f"{ours}.{row.ours}", tuple(theirs + part.replace(google.ROOT, root) for part in row.theirs), row.join)
        for row in rows
    ]


TEXT_TOP = [
    Name("text.token_embed.weight", ("txt/Embed_0/embedding",)),
    Name("text.pos_embed", ("txt/pos_embedding",), google.row),
    *google.norm("text.norm", f"{TEXT}encoder_norm"),
    *google.dense("text_proj", "txt/head"),
    Name("logit_scale", ("t",), as_number),
    Name("logit_bias", ("b",), as_number),
]


def read(raw: Raw) -> Translated:
    """A pair in our words."""
    account = Account(str(raw.path), FORMAT.name)
    prefix = _prefix(frozenset(raw.tensors)) or ""
    tensors = {name.removeprefix(prefix): tensor for name, tensor in raw.tensors.items()}
    tensors = google.unstacked(google.unstacked(tensors, IMAGE), TEXT)
    absent = [name for name in (IMAGE + QUERY, TEXT + QUERY) if name not in tensors]
    if absent:
        raise CheckpointError(f"{raw.path}: incomplete: there is no {', '.join(absent)}")
    depth, text_depth = (blocks_in(tensors, rf"{tower}encoderblock_(\d+)/") for tower in (IMAGE, TEXT))
    rows = [
        *_under("image", "img/", expand([*google.TOP, *google.BIG_VISION_BLOCK], depth)),
        *_under("text", "txt/", expand(google.BIG_VISION_BLOCK, text_depth), "Encoder_0/"),
        *TEXT_TOP,
    ]
    state = translate(tensors, rows, DROPS, account)
    heads, text_heads = (tensors[tower + QUERY].shape[1] for tower in (IMAGE, TEXT))
    hints = TowerHints("gelu_tanh", 1e-6, "bicubic_antialias", num_heads=heads)
    config = infer_pair(state, hints, TextHints(num_heads=text_heads), account)
    return Translated(config, state, account, (), authors_preprocess(config))


FORMAT = Format("big_vision SigLIP npz", recognises, read)
