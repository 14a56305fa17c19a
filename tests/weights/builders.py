"""Checkpoints of every format, rebuilt from a small model of ours whose weights are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.data import Preprocess
from vitrail.models import VisionTransformer, ViTConfig
from vitrail.weights import Artefact, load_checkpoint

PLAIN = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 5}


def model(**options: object) -> VisionTransformer:
    """A small model with every parameter away from its initial value."""
    torch.manual_seed(0)
    made = VisionTransformer(ViTConfig(**{**PLAIN, **options}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def state(made: nn.Module) -> dict[str, Tensor]:
    """Its weights, free of the module."""
    return {name: tensor.detach().clone() for name, tensor in made.state_dict().items()}


def artefact(folder: Path, classes: tuple[str, ...] = ("a", "b", "c", "d", "e"), **options: object) -> Path:
    """A saved artefact of :func:`model`."""
    made = model(**options)
    Artefact(made, classes, Preprocess(size=made.img_size), {"score": 0.5}).save_pretrained(folder)
    return folder


def google_npz(weights: dict[str, Tensor], heads: int, numbering: str, prefix: str = "") -> dict[str, np.ndarray]:
    """Our weights in Flax's layout: ``"flax"`` (AugReg), ``"big_vision"`` or ``"stacked"`` (big_vision, one tensor)."""
    attention, norm2, mlp = (1, 2, 3) if numbering == "flax" else (0, 1, 0)
    array = {name: tensor.numpy() for name, tensor in weights.items()}
    out: dict[str, np.ndarray] = {
        "embedding/kernel": array["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": array["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": array["norm.weight"],
        "Transformer/encoder_norm/bias": array["norm.bias"],
    }
    out["Transformer/posembed_input/pos_embedding" if numbering == "flax" else "pos_embedding"] = array["pos_embed"]
    if "cls_token" in array:
        out["cls"] = array["cls_token"]
    if "head.weight" in array:
        out |= {"head/kernel": array["head.weight"].T, "head/bias": array["head.bias"]}
    layers = []
    for i in range(2):
        block = {key.removeprefix(f"blocks.{i}."): v for key, v in array.items() if key.startswith(f"blocks.{i}.")}
        layers.append(_google_block(block, heads, attention, norm2, mlp))
    for i, layer in enumerate(layers):
        if numbering == "stacked":
            break
        out |= {f"Transformer/encoderblock_{i}/{name}": value for name, value in layer.items()}
    if numbering == "stacked":
        out |= {f"Transformer/encoderblock/{k}": np.stack([layer[k] for layer in layers]) for k in layers[0]}
    if "attn_pool.latent" in array:
        out |= _google_pool(array, heads)
    return {prefix + name: np.ascontiguousarray(value) for name, value in out.items()}


def _kernel(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows ``(heads·width, D)`` as Flax's ``(D, heads, width)``."""
    return weight.T.reshape(weight.shape[1], heads, -1)


def _google_block(
    block: dict[str, np.ndarray], heads: int, attention: int, norm2: int, mlp: int
) -> dict[str, np.ndarray]:
    mixer = f"MultiHeadDotProductAttention_{attention}"
    out = {
        "LayerNorm_0/scale": block["norm1.weight"],
        "LayerNorm_0/bias": block["norm1.bias"],
        f"LayerNorm_{norm2}/scale": block["norm2.weight"],
        f"LayerNorm_{norm2}/bias": block["norm2.bias"],
        f"{mixer}/out/kernel": block["attn.proj.weight"].T.reshape(heads, -1, block["attn.proj.weight"].shape[0]),
        f"{mixer}/out/bias": block["attn.proj.bias"],
    }
    names = ("query", "key", "value")
    for name, weight, bias in zip(
        names, np.split(block["attn.qkv.weight"], 3), np.split(block["attn.qkv.bias"], 3), strict=True
    ):
        out |= {f"{mixer}/{name}/kernel": _kernel(weight, heads), f"{mixer}/{name}/bias": bias.reshape(heads, -1)}
    for n in (0, 1):
        out |= {
            f"MlpBlock_{mlp}/Dense_{n}/kernel": block[f"mlp.fc{n + 1}.weight"].T,
            f"MlpBlock_{mlp}/Dense_{n}/bias": block[f"mlp.fc{n + 1}.bias"],
        }
    return out


def _google_pool(array: dict[str, np.ndarray], heads: int) -> dict[str, np.ndarray]:
    pool = {name.removeprefix("attn_pool."): v for name, v in array.items() if name.startswith("attn_pool.")}
    as_block = {
        "norm1.weight": pool["norm.weight"],
        "norm1.bias": pool["norm.bias"],
        "norm2.weight": pool["norm.weight"],
        "norm2.bias": pool["norm.bias"],
        "attn.proj.weight": pool["proj.weight"],
        "attn.proj.bias": pool["proj.bias"],
        "attn.qkv.weight": np.concatenate([pool["q.weight"], pool["kv.weight"]]),
        "attn.qkv.bias": np.concatenate([pool["q.bias"], pool["kv.bias"]]),
        **{name: value for name, value in pool.items() if name.startswith("mlp.")},
    }
    block = _google_block(as_block, heads, 0, 1, 0)
    out = {f"MAPHead_0/{name}": value for name, value in block.items() if not name.startswith("LayerNorm_1")}
    return {"MAPHead_0/probe": pool["latent"], **out}


def assert_reads(file: Path, expected: nn.Module, **config: object) -> None:
    """A file is read to exactly these values, and to a config that says so."""
    loaded = load_checkpoint(file)
    wanted = expected.state_dict()
    assert loaded.model.state_dict().keys() == wanted.keys()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    for name, value in config.items():
        assert getattr(loaded.model.config, name) == value, name
