"""The authors' own files of DINOv2 (``.pth``) and the training checkpoints of DINO.

A DINOv2 backbone file has a mask token and, for the register models, ``register_tokens``; block chunks write
``blocks.{chunk}.{i}``. DINO's *backbone* files are in timm's naming and are read there; its training checkpoints hold
student and teacher with their projection heads.
"""

from __future__ import annotations

import re

from vitrail.weights.account import Account
from vitrail.weights.files import Raw
from vitrail.weights.infer import Hints, infer_config
from vitrail.weights.names import Format, Name, Translated, blocks_in, both, expand, translate
from vitrail.weights.timm import BLOCK, PLAIN_MLP, TOP

GATED = [row for part in ("w12", "w3") for row in both(f"blocks.{{i}}.mlp.{part}", f"blocks.{{i}}.mlp.{part}")]
TABLE = [*TOP, Name("reg_token", ("register_tokens",)), *BLOCK, *PLAIN_MLP, *GATED]

DROPS = {
    r"(backbone\.)?pre_logits\..*": "the tanh layer of the first ViT, which no current model has",
    r"(dino_|ibot_)?head\.(mlp|last_layer)\..*": "the projection head of self-supervised training",
}


def recognises(names: frozenset[str]) -> bool:
    """A mask token of the official shape of names, chunked blocks, or a backbone beside its projection head."""
    bare = {name.removeprefix("backbone.") for name in names}
    has_blocks = any(re.match(r"blocks\.(\d+\.)?0\.attn\.qkv\.weight", name) for name in bare)
    official = {"register_tokens", "mask_token"} & bare or any(re.match(r"blocks\.\d+\.\d+\.", name) for name in bare)
    projected = any(re.search(r"head\.(mlp|last_layer)\.", name) for name in bare)
    return has_blocks and bool(official or projected) and "decoder_embed.weight" not in bare


def read(raw: Raw) -> Translated:
    """A DINO or DINOv2 checkpoint in our words."""
    account = Account(str(raw.path), FORMAT.name)
    tensors = {
        re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", name.removeprefix("backbone.")): tensor
        for name, tensor in raw.tensors.items()
    }
    state = translate(tensors, expand(TABLE, blocks_in(tensors, r"blocks\.(\d+)\.")), DROPS, account)
    hints = Hints(pos_resize="bicubic_antialias" if "reg_token" in state else "bicubic_offset")
    return Translated(infer_config(state, hints, account), state, account)


FORMAT = Format("DINO or DINOv2 by its authors", recognises, read)
