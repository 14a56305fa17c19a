"""Google's ``.npz``: the original ViT and AugReg files (Flax naming), and big_vision's, SigLIP's pooling head included.

Flax kernels are ``(in, out)``, convolutions ``(height, width, in, out)``, and attention keeps its heads apart.
big_vision numbers the sub-layers otherwise and may stack all layers in one tensor. The GELU of the JAX code is the tanh
approximation; like timm, whose accuracy on these files is published, this is run with the exact one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vitrail.weights.account import Account
from vitrail.weights.files import Raw
from vitrail.weights.infer import Hints, infer_config
from vitrail.weights.names import Format, Join, Name, Translated, blocks_in, both, expand, translate

ROOT = "Transformer/"
PREFIXES = ("", "opt/target/", "params/", "params/img/")


def same(parts: Sequence[Tensor]) -> Tensor:
    """As it is."""
    return parts[0]


def row(parts: Sequence[Tensor]) -> Tensor:
    """A table or token as ``(1, rows, width)``."""
    return parts[0].reshape(1, -1, parts[0].shape[-1])


def transposed(parts: Sequence[Tensor]) -> Tensor:
    """``(in, out)`` as ``(out, in)``."""
    return parts[0].T


def convolution(parts: Sequence[Tensor]) -> Tensor:
    """``(height, width, in, out)`` as ``(out, in, height, width)``."""
    return parts[0].permute(3, 2, 0, 1)


def _into_heads(parts: Sequence[Tensor]) -> Tensor:
    """Kernels ``(D, heads, width)`` as rows, one projection under the other."""
    return torch.cat([part.flatten(1).T for part in parts])


def _head_biases(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def _out_of_heads(parts: Sequence[Tensor]) -> Tensor:
    """A kernel ``(heads, width, D)``."""
    return parts[0].permute(2, 0, 1).flatten(1)


def dense(ours: str, theirs: str, kernel: Join = transposed) -> list[Name]:
    """Kernel and bias of a dense layer."""
    return [Name(f"{ours}.weight", (f"{theirs}/kernel",), kernel), Name(f"{ours}.bias", (f"{theirs}/bias",), same)]


def norm(ours: str, theirs: str) -> list[Name]:
    """Scale and bias of a norm."""
    return [Name(f"{ours}.weight", (f"{theirs}/scale",), same), Name(f"{ours}.bias", (f"{theirs}/bias",), same)]


def _heads(ours: str, theirs: str, *parts: str) -> list[Name]:
    return [
        *both(ours, tuple(f"{theirs}/{part}" for part in parts), "kernel", join=_into_heads),
        *both(ours, tuple(f"{theirs}/{part}" for part in parts), "bias", join=_head_biases),
    ]


def _block(layer: str, attention: int, norm2: int, mlp: int) -> list[Name]:
    ours, theirs = "blocks.{i}", f"Transformer/{layer}"
    mixer = f"{theirs}/MultiHeadDotProductAttention_{attention}"
    return [
        *norm(f"{ours}.norm1", f"{theirs}/LayerNorm_0"),
        *_flax(_heads(f"{ours}.attn.qkv", mixer, "query", "key", "value")),
        *dense(f"{ours}.attn.proj", f"{mixer}/out", _out_of_heads),
        *norm(f"{ours}.norm2", f"{theirs}/LayerNorm_{norm2}"),
        *dense(f"{ours}.mlp.fc1", f"{theirs}/MlpBlock_{mlp}/Dense_0"),
        *dense(f"{ours}.mlp.fc2", f"{theirs}/MlpBlock_{mlp}/Dense_1"),
    ]


def _flax(rows: list[Name]) -> list[Name]:
    """The same rows with Flax's slashes and our ``weight``."""
    return [
        Name(
            row.ours.replace(".kernel", ".weight"),
            tuple(p.replace(".kernel", "/kernel").replace(".bias", "/bias") for p in row.theirs),
            row.join,
        )
        for row in rows
    ]


POOL = "MAPHead_0"
TOP = [
    Name("cls_token", ("cls",), row),
    Name("pos_embed", ("Transformer/posembed_input/pos_embedding",), row),
    Name("pos_embed", ("pos_embedding",), row),
    *dense("patch_embed.proj", "embedding", convolution),
    *norm("norm", "Transformer/encoder_norm"),
    *dense("head", "head"),
    Name("attn_pool.latent", (f"{POOL}/probe",), row),
    *_flax(_heads("attn_pool.q", f"{POOL}/MultiHeadDotProductAttention_0", "query")),
    *_flax(_heads("attn_pool.kv", f"{POOL}/MultiHeadDotProductAttention_0", "key", "value")),
    *dense("attn_pool.proj", f"{POOL}/MultiHeadDotProductAttention_0/out", _out_of_heads),
    *norm("attn_pool.norm", f"{POOL}/LayerNorm_0"),
    *dense("attn_pool.mlp.fc1", f"{POOL}/MlpBlock_0/Dense_0"),
    *dense("attn_pool.mlp.fc2", f"{POOL}/MlpBlock_0/Dense_1"),
]
FLAX_BLOCK = _block("encoderblock_{i}", attention=1, norm2=2, mlp=3)
BIG_VISION_BLOCK = _block("encoderblock_{i}", attention=0, norm2=1, mlp=0)

DROPS = {
    r"pre_logits/.*": "the tanh layer of the first ViT, which no current model has",
    r"params/(t|b|img/head/.*)": "the temperature of a contrastive pair, whose text tower is not in the file",
    r"opt/(?!target/).*": "the optimiser's state",
}


def recognises(names: frozenset[str]) -> bool:
    """``embedding/kernel`` behind one of the known prefixes."""
    return _prefix(names) is not None


def _prefix(names: frozenset[str]) -> str | None:
    return next((prefix for prefix in PREFIXES if f"{prefix}embedding/kernel" in names), None)


def read(raw: Raw) -> Translated:
    """A Google checkpoint in our words."""
    account = Account(str(raw.path), FORMAT.name)
    prefix = _prefix(frozenset(raw.tensors)) or ""
    tensors = unstacked({name.removeprefix(prefix): tensor for name, tensor in raw.tensors.items()}, ROOT)
    big_vision = any("/MlpBlock_0/" in name and name.startswith("Transformer/") for name in tensors)
    depth = blocks_in(tensors, r"Transformer/encoderblock_(\d+)/")
    rows = expand([*TOP, *(BIG_VISION_BLOCK if big_vision else FLAX_BLOCK)], depth)
    query = f"Transformer/encoderblock_0/MultiHeadDotProductAttention_{0 if big_vision else 1}/query/kernel"
    heads = tensors[query].shape[1] if query in tensors else None
    state = translate(tensors, rows, DROPS, account)
    return Translated(infer_config(state, Hints(num_heads=heads), account), state, account)


def unstacked(tensors: Mapping[str, Tensor], root: str) -> dict[str, Tensor]:
    """Layers that are stacked under ``encoderblock/`` of ``root``, each under a name of its own."""
    stacked = f"{root}encoderblock/"
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(stacked):
            out |= {f"{root}encoderblock_{i}/{name[len(stacked) :]}": layer for i, layer in enumerate(tensor)}
        else:
            out[name] = tensor
    return out


FORMAT = Format("Google npz", recognises, read)
