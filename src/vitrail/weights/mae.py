"""The authors' pretraining checkpoints of MAE: the encoder is kept, the decoder was only there to train it."""

from __future__ import annotations

from vitrail.weights.account import Account
from vitrail.weights.files import Raw
from vitrail.weights.infer import Hints, infer_config
from vitrail.weights.names import Format, Translated, blocks_in, translate
from vitrail.weights.timm import table

DROPS = {
    r"decoder_(embed|blocks|norm|pred|pos_embed)(\..*)?": "MAE's decoder, which pretraining leaves behind",
    r"mask_token": "the decoder's mask token, not the encoder's",
}


def recognises(names: frozenset[str]) -> bool:
    """An encoder in timm's naming beside ``decoder_embed``."""
    return {"blocks.0.attn.qkv.weight", "decoder_embed.weight"} <= names


def read(raw: Raw) -> Translated:
    """The encoder of an MAE in our words."""
    account = Account(str(raw.path), FORMAT.name)
    encoder = [
        row for row in table(blocks_in(raw.tensors, r"blocks\.(\d+)\."), gated=False) if row.ours != "mask_token"
    ]
    state = translate(raw.tensors, encoder, DROPS, account)
    return Translated(infer_config(state, Hints(), account.source), state, account)


FORMAT = Format("MAE pretraining by its authors", recognises, read)
