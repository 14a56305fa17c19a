"""timm's parallel block with RMS norms as the oracle of the ViT-22B block, and the paper's equations."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.models import VisionTransformer, build, config_of
from vitrail.weights import Artefact, convert

from .peers import assert_same, perturb, pictures
from .tiny_parallel import TINY

timm = pytest.importorskip("timm")
NAME = "vit_parallel_small_patch16_224"


def tiny() -> VisionTransformer:
    model = build(config_of(NAME, {**TINY[NAME], "num_classes": 5}))
    assert isinstance(model, VisionTransformer)
    perturb(model)
    return model


def timm_peer(ours: VisionTransformer) -> nn.Module:
    """timm's Vision Transformer made of its parallel blocks, with our weights."""
    from timm.layers import RmsNorm
    from timm.models.vision_transformer import ParallelScalingBlock
    from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

    theirs = TimmVisionTransformer(
        img_size=48,
        patch_size=16,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=5,
        qkv_bias=False,
        qk_norm=True,
        norm_layer=partial(RmsNorm, eps=1e-6),
        block_fn=ParallelScalingBlock,
        dynamic_img_size=True,
    )
    state: dict[str, Tensor] = {}
    found = ours.state_dict()
    renamed = {"norm": "in_norm", "attn.proj": "attn_out_proj", "mlp.fc2": "mlp_out_proj"}
    renamed |= {"attn.q_norm": "q_norm", "attn.k_norm": "k_norm"}
    for name, tensor in found.items():
        if not name.startswith("blocks."):
            state[name] = tensor
            continue
        _, number, rest = name.split(".", 2)
        part, kind = rest.rsplit(".", 1)
        if part in renamed:
            state[f"blocks.{number}.{renamed[part]}.{kind}"] = tensor
    for i in range(2):
        joint = [found[f"blocks.{i}.mlp.fc1.weight"], found[f"blocks.{i}.attn.qkv.weight"]]
        state |= {
            f"blocks.{i}.in_proj.weight": torch.cat(joint),
            f"blocks.{i}.mlp_bias": found[f"blocks.{i}.mlp.fc1.bias"],
        }
    theirs.load_state_dict(state, strict=True)
    return theirs.eval()


@pytest.mark.parametrize("size", [(48, 48), (32, 80)])
def test_a_model_of_parallel_blocks_equals_timm(size: tuple[int, int]) -> None:
    ours = tiny()
    theirs, images = timm_peer(ours), pictures(*size)
    names = ("cls_token", "pos_embed", "norm.weight")
    mine, others = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert_same(ours, theirs, images, {n: mine[n] for n in names}, {n: others[n] for n in names})
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, intermediates_only=True)
        for one, other in zip(ours.feature_maps(images, norm=False), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_a_block_follows_the_papers_equations() -> None:
    """Dehghani et al. 2023, section 2.1: y' = LN(x); y = x + MLP(y') + Attention(y'), queries and keys normalised."""
    model = tiny()
    block, tokens = model.blocks[1], model.embed(pictures(48, 48))
    state = {name: tensor.detach() for name, tensor in block.state_dict().items()}

    def norm(x: Tensor, weight: Tensor) -> Tensor:  # Neither bias nor centring.
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    x = tokens.values
    y = norm(x, state["norm.weight"])
    query, key, value = (y @ part.T for part in state["attn.qkv.weight"].chunk(3))
    heads = []
    for head in range(2):
        columns = slice(8 * head, 8 * head + 8)
        q = norm(query[..., columns], state["attn.q_norm.weight"])
        k = norm(key[..., columns], state["attn.k_norm.weight"])
        heads.append((q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ value[..., columns])
    attention = F.linear(torch.cat(heads, -1), state["attn.proj.weight"], state["attn.proj.bias"])
    hidden = F.gelu(F.linear(y, state["mlp.fc1.weight"], state["mlp.fc1.bias"]))
    expected = x + F.linear(hidden, state["mlp.fc2.weight"], state["mlp.fc2.bias"]) + attention
    torch.testing.assert_close(block(tokens).values, expected, atol=1e-5, rtol=1e-5)


def test_projection_of_the_attention_and_norms_have_no_bias() -> None:
    names = set(tiny().state_dict())
    assert not any("norm" in name and name.endswith("bias") for name in names)
    assert "blocks.0.attn.qkv.bias" not in names and "blocks.0.mlp.fc1.bias" in names


def test_saved_and_read_again_and_refused_by_those_who_have_no_such_block(tmp_path: Path) -> None:
    model = tiny()
    Artefact(model, (), Preprocess(size=model.img_size)).save_pretrained(tmp_path / "m")
    again = Artefact.from_pretrained(tmp_path / "m").model
    with torch.no_grad():
        assert torch.equal(again(pictures(48, 48)), model(pictures(48, 48)))
    for to in ("timm", "transformers"):
        with pytest.raises(VitrailError):
            convert(tmp_path / "m", tmp_path / to, to=to)
