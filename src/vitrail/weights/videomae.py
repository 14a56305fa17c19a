"""The authors' own files of VideoMAE (``.pth``): pretraining with the decoder, and fine-tuned classifiers.

Positions are not stored. Encoders that were taken out of a pretraining file may still have its ``encoder.`` prefix.
"""

from __future__ import annotations

from vitrail.weights.account import Account
from vitrail.weights.files import Raw
from vitrail.weights.infer_video import ClipHints, infer_video, infer_videomae
from vitrail.weights.names import Format, Name, Translated, behind, blocks_in, both, expand, translate

PREFIX = "encoder."
TOP = [row for part in ("patch_embed.proj", "norm", "fc_norm", "head") for row in both(part, part)]
BLOCK = [
    *(
        row
        for part in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for row in both(f"blocks.{{i}}.{part}", f"blocks.{{i}}.{part}")
    ),
    Name("blocks.{i}.attn.qkv.weight", ("blocks.{i}.attn.qkv.weight",)),
    Name("blocks.{i}.attn.qkv.q_bias", ("blocks.{i}.attn.q_bias",)),
    Name("blocks.{i}.attn.qkv.v_bias", ("blocks.{i}.attn.v_bias",)),
]
DECODER = [
    Name("decoder.embed.weight", ("encoder_to_decoder.weight",)),
    Name("decoder.mask_token", ("mask_token",)),
    *both("decoder.norm", "decoder.norm"),
    *both("decoder.pred", "decoder.head"),
]
NORM_EPS = 1e-6


def recognises(names: frozenset[str]) -> bool:
    """Joint ``qkv`` with separate biases of queries and values, and no class token, which BEiT has."""
    bare = {name.removeprefix(PREFIX) for name in names}
    wanted = {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.attn.q_bias"}
    return wanted <= bare and "cls_token" not in bare


def read(raw: Raw) -> Translated:
    """A VideoMAE checkpoint in our words."""
    account = Account(str(raw.path), FORMAT.name)
    names = raw.tensors.keys()
    prefix = PREFIX if any(name.startswith(f"{PREFIX}blocks.") for name in names) else ""
    encoder = expand([*TOP, *BLOCK], blocks_in(names, r"(?:encoder\.)?blocks\.(\d+)\."))
    hints = ClipHints.of(raw.config, NORM_EPS, NORM_EPS, account)
    if "encoder_to_decoder.weight" not in names:
        state = translate(raw.tensors, behind(encoder, "", prefix), {}, account)
        return Translated(infer_video(state, hints, account), state, account)
    decoder = behind(expand(BLOCK, blocks_in(names, r"decoder\.blocks\.(\d+)\.")), "decoder.", "decoder.")
    rows = [*behind(encoder, "encoder.", prefix), *DECODER, *decoder]
    state = translate(raw.tensors, rows, {}, account)
    return Translated(infer_videomae(state, hints, account), state, account)


FORMAT = Format("VideoMAE by its authors", recognises, read)
