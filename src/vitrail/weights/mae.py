"""The authors' pretraining checkpoints of MAE: an encoder in timm's naming beside the decoder that trained it.

Their fine-tuned files (``fc_norm`` instead of ``norm``, no decoder) are in timm's naming and are read there. timm has
no decoder: for it the encoder alone is written.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vitrail.data.preprocess import Preprocess
from vitrail.models import MAEConfig, shared_numbers
from vitrail.weights import write_vit
from vitrail.weights.account import Account
from vitrail.weights.adapt_autoencoder import LEFT, encoder_of
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.infer import Hints, heads_of, infer_config, mlp_ratio
from vitrail.weights.names import (
    Files,
    Format,
    Name,
    State,
    Translated,
    behind,
    blocks_in,
    both,
    expand,
    translate,
)
from vitrail.weights.timm import BLOCK, PLAIN_MLP, TOP

DECODER = [
    *both("decoder.embed", "decoder_embed"),
    Name("decoder.mask_token", ("mask_token",)),
    Name("decoder_pos_embed", ("decoder_pos_embed",)),
    *both("decoder.norm", "decoder_norm"),
    *both("decoder.pred", "decoder_pred"),
]
DECODER_BLOCK = [
    Name(f"decoder.{row.ours}", tuple(f"decoder_{part}" for part in row.theirs)) for row in [*BLOCK, *PLAIN_MLP]
]
DECODER_HEADS = {512: 16}
"""Heads of the published decoder."""


def recognises(names: frozenset[str]) -> bool:
    """An encoder in timm's naming beside ``decoder_embed``."""
    return {"blocks.0.attn.qkv.weight", "decoder_embed.weight"} <= names


def read(raw: Raw) -> Translated:
    """An MAE in our words."""
    account = Account(str(raw.path), FORMAT.name)
    depth, decoder_depth = (blocks_in(raw.tensors, rf"{part}blocks\.(\d+)\.") for part in ("", "decoder_"))
    encoder = [row for row in expand([*TOP, *BLOCK, *PLAIN_MLP], depth) if row.ours != "mask_token"]
    rows = [*behind(encoder, "encoder.", ""), *DECODER, *expand(DECODER_BLOCK, decoder_depth)]
    state = translate(raw.tensors, rows, {}, account)
    heads = raw.config.get("num_attention_heads"), raw.config.get("decoder_num_attention_heads")
    hints = Hints(pos_resize="bicubic", num_heads=heads[0])
    return Translated(infer_autoencoder(state, hints, heads[1], account), state, account)


def infer_autoencoder(state: State, hints: Hints, decoder_heads: int | None, account: Account) -> MAEConfig:
    """The config whose model has exactly these weights.

    Args:
        state: by our names.
        hints: of the encoder.
        decoder_heads: where something says it.
        account: says where the weights come from, and gets what had to be guessed.

    Raises:
        CheckpointError: a weight that every MAE has is missing, or the shapes contradict each other.
    """
    found = infer_config(encoder_of(state), hints, account)
    required = ("decoder.embed.weight", "decoder.blocks.0.mlp.fc1.weight")
    absent = [name for name in required if name not in state]
    if absent:
        raise CheckpointError(f"{account.source}: incomplete: there is nothing that could be {', '.join(absent)}")
    dim = state["decoder.embed.weight"].shape[0]
    key = "decoder_num_attention_heads"
    return MAEConfig(
        **shared_numbers(found, MAEConfig),
        decoder_embed_dim=dim,
        decoder_depth=blocks_in(state, r"decoder\.blocks\.(\d+)\."),
        decoder_num_heads=decoder_heads or heads_of(dim, account, "decoder_num_heads", DECODER_HEADS, key),
        decoder_mlp_ratio=mlp_ratio(state["decoder.blocks.0.mlp.fc1.weight"].shape[0], dim),
    )


def for_timm(
    config: MAEConfig,
    state: Mapping[str, Tensor],
    account: Account,
    classes: tuple[str, ...],
    preprocess: Preprocess,
) -> Files:
    """The encoder as a folder for ``timm.create_model("local-dir:…")``."""
    encoder = encoder_of(dict(state))
    account.dropped |= dict.fromkeys((name for name in state if not name.startswith("encoder.")), LEFT)
    return write_vit.for_timm(config.encoder, encoder, account, classes, preprocess)


FORMAT = Format("MAE pretraining by its authors", recognises, read)
