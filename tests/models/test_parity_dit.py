"""DiT against two oracles: diffusers' ``DiTTransformer2DModel``, and the paper's equations written plainly.

diffusers differs from the authors in two numbers, which are set to the authors' here: the second norm's epsilon is an
argument, and the timestep's frequencies fall over one step fewer than there are (``downscale_freq_shift``). Its answers
are always square; the equations take any grid.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.models import DiffusionTransformer, DiTConfig
from vitrail.weights import load_checkpoint
from vitrail.weights.dit import AUTHORS
from vitrail.weights.names import expand, rename

from .peers import TOLERANCE, assert_same, perturb, save

transformer_2d = pytest.importorskip("diffusers.models.transformers.dit_transformer_2d")
embeddings = pytest.importorskip("diffusers.models.embeddings")

TIMESTEPS, LABELS = torch.tensor([7, 912]), torch.tensor([2, 5])


def peer(size: int, patch: int, out_channels: int = 8) -> nn.Module:
    """A small DiT of diffusers: one embedding for all blocks, the authors' numbers, every weight perturbed."""
    model = transformer_2d.DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        num_layers=3,
        sample_size=size,
        patch_size=patch,
        out_channels=out_channels,
        num_embeds_ada_norm=5,
        norm_eps=1e-6,
    )
    perturb(model)
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
        block.norm1.emb.time_proj = embeddings.Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
    return model


def converted(theirs: nn.Module, tmp_path: Path, size: int) -> DiffusionTransformer:
    (tmp_path / "config.json").write_text(f'{{"num_attention_heads": 4, "sample_size": {size}}}')
    ours = load_checkpoint(save(theirs, tmp_path / "model.safetensors")).model
    assert isinstance(ours, DiffusionTransformer)
    return ours


def latents(*size: int) -> Tensor:
    return torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(("size", "patch", "out"), [(8, 2, 8), (12, 2, 8), (16, 4, 8), (16, 8, 8), (8, 2, 4)])
def test_answers_and_gradients_equal_diffusers(size: int, patch: int, out: int, tmp_path: Path) -> None:
    theirs = peer(size, patch, out)
    ours = converted(theirs, tmp_path, size)
    block = theirs.transformer_blocks[1]
    assert_same(
        lambda x: ours(x, TIMESTEPS, LABELS),
        lambda x: theirs(x, timestep=TIMESTEPS, class_labels=LABELS).sample,
        latents(size, size),
        {"modulation": ours.blocks[1].modulation.weight, "proj": ours.blocks[1].attn.proj.weight},
        {"modulation": block.norm1.linear.weight, "proj": block.attn1.to_out[0].weight},
    )


def test_tokens_after_every_block_equal_diffusers(tmp_path: Path) -> None:
    theirs = peer(8, 2)
    ours = converted(theirs, tmp_path, 8)
    seen: list[Tensor] = []
    for block in theirs.transformer_blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        theirs(latents(8, 8), timestep=TIMESTEPS, class_labels=LABELS)
        found = ours.intermediates(latents(8, 8), [0, 1, 2], norm=False, timesteps=TIMESTEPS, labels=LABELS)
    for tap, expected in zip(found, seen, strict=True):
        assert float((tap.values - expected).abs().max()) <= TOLERANCE


# ---------------------------------------------------------------------- the paper, plainly


def waves(places: Tensor, width: int) -> Tensor:
    """Angles of every place at ``width / 2`` frequencies from 1 down towards 1/10,000."""
    frequencies = [10_000 ** (-k / (width // 2)) for k in range(width // 2)]
    return places.double()[:, None] * torch.tensor(frequencies, dtype=torch.float64)


def positions(height: int, width: int, dim: int) -> Tensor:
    """Half the width says the column, half the row; sines first."""
    table = []
    for row in range(height):
        for column in range(width):
            across, down = waves(torch.tensor([column, row]), dim // 2)
            table.append(torch.cat([across.sin(), across.cos(), down.sin(), down.cos()]))
    return torch.stack(table).float()


def plain_dit(weights: dict[str, Tensor], x: Tensor, t: Tensor, y: Tensor, heads: int, patch: int) -> Tensor:
    """DiT by the authors' names of its weights: sections 3.1 and 3.2 of the paper, and nothing else."""

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normed(value: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        centred = value - value.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + scale) + shift

    def gelu(value: Tensor) -> Tensor:
        return 0.5 * value * (1 + (math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)).tanh())

    def attend(block: str, value: Tensor) -> Tensor:
        query, key, content = linear(f"{block}.attn.qkv", value).chunk(3, dim=-1)
        mixed = []
        for q, k, v in zip(*(part.chunk(heads, dim=-1) for part in (query, key, content)), strict=True):
            mixed.append((q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v)
        return linear(f"{block}.attn.proj", torch.cat(mixed, dim=-1))

    batch, channels, height, width = x.shape
    rows, columns = height // patch, width // patch
    cut = x.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    projection = weights["x_embedder.proj.weight"].flatten(1)
    h = cut @ projection.T + weights["x_embedder.proj.bias"] + positions(rows, columns, len(projection))
    angles = waves(t, 256)
    told = linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], dim=1).float())
    c = F.silu(linear("t_embedder.mlp.2", F.silu(told)) + weights["y_embedder.embedding_table.weight"][y])[:, None]
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    for block in (f"blocks.{i}" for i in range(depth)):
        shift1, scale1, gate1, shift2, scale2, gate2 = linear(f"{block}.adaLN_modulation.1", c).chunk(6, dim=-1)
        h = h + gate1 * attend(block, normed(h, shift1, scale1))
        wide = gelu(linear(f"{block}.mlp.fc1", normed(h, shift2, scale2)))
        h = h + gate2 * linear(f"{block}.mlp.fc2", wide)
    shift, scale = linear("final_layer.adaLN_modulation.1", c).chunk(2, dim=-1)
    values = linear("final_layer.linear", normed(h, shift, scale)).unflatten(2, (patch, patch, -1))
    answer = torch.empty(batch, values.shape[-1], height, width)
    for place in range(rows * columns):
        top, left = place // columns * patch, place % columns * patch
        answer[:, :, top : top + patch, left : left + patch] = values[:, place].permute(0, 3, 1, 2)
    return answer


@pytest.mark.parametrize("size", [(8, 8), (4, 12)])
@pytest.mark.parametrize("patch", [2, 4])
def test_any_grid_equals_the_papers_equations(patch: int, size: tuple[int, int]) -> None:
    config = DiTConfig(img_size=8, patch_size=patch, embed_dim=32, depth=3, num_heads=4, num_classes=5)
    ours = DiffusionTransformer(config)
    fixed = ours.pos_embed.clone()
    perturb(ours)
    ours.pos_embed.data.copy_(fixed)
    weights = {name: tensor.detach() for name, tensor in rename(ours.state_dict(), expand(AUTHORS, 3)).items()}
    x = latents(*size)
    expected = plain_dit(weights, x, TIMESTEPS, LABELS, 4, patch)
    with torch.no_grad():
        found = ours(x, TIMESTEPS, LABELS)
    assert float(expected.abs().max()) > 0.1
    assert float((found - expected).abs().max()) <= TOLERANCE
