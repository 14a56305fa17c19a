"""Models whose attention is known beforehand, and the attention of any ViT computed from its raw weights in float64."""

import torch
from torch import Tensor

from vitrail.models import VisionTransformer, ViTConfig


def tiny_vit(img_size: tuple[int, int] = (16, 24), registers: int = 0, **more: object) -> VisionTransformer:
    """Patches of 8, width 16, two heads, three layers, weights large enough that attention is far from uniform."""
    torch.manual_seed(3)
    settings = {"embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 4, "patch_size": 8, **more}
    model = VisionTransformer(ViTConfig(img_size=img_size, registers=registers, **settings))  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def explicit_attention(model: VisionTransformer, images: Tensor) -> list[Tensor]:
    """softmax(QKᵀ/√d) of every layer, ``(B, heads, N, N)`` float64, with none of the package's attention code."""
    weights = {name: value.detach().double() for name, value in model.named_parameters()}
    heads, result = model.config.num_heads, []
    x = model.embed(images).values.detach().double()

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + model.config.norm_eps).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    for i in range(model.config.depth):
        q, k, v = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").chunk(3, dim=-1)
        width = q.shape[-1] // heads
        rows, mixed = [], []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = torch.einsum("bqd,bkd->bqk", q[..., part], k[..., part]) / width**0.5
            row = scores.exp() / scores.exp().sum(-1, keepdim=True)
            rows.append(row)
            mixed.append(row @ v[..., part])
        result.append(torch.stack(rows, dim=1))
        x = x + linear(torch.cat(mixed, dim=-1), f"blocks.{i}.attn.proj")
        hidden = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + linear(gelu, f"blocks.{i}.mlp.fc2")
    return result


def plant(model: VisionTransformer, targets: dict[int, int], layer: int = 0, strength: float = 60.0) -> None:
    """Make tokens look at other tokens: ``targets`` maps places in the sequence to places (others look at themselves).

    Works on the first layer of a model with one head whose width exceeds its tokens: token ``i`` becomes the unit
    vector ``i`` (by its position, with no patch content), keys are the tokens, queries are permuted tokens.
    """
    dim, count = model.config.embed_dim, model.pos_embed.shape[1]
    attention = model.blocks[layer].attn
    with torch.no_grad():
        model.patch_embed.proj.weight.zero_()
        model.patch_embed.proj.bias.zero_()
        assert model.cls_token is not None
        model.cls_token.zero_()
        model.pos_embed.copy_(torch.eye(count, dim)[None])
        model.blocks[layer].norm1.weight.fill_(1.0)
        model.blocks[layer].norm1.bias.zero_()
        query = torch.eye(dim)
        for source, target in targets.items():
            query[:, source] = 0.0
            query[target, source] = 1.0
        attention.qkv.weight.zero_()
        attention.qkv.bias.zero_()
        attention.qkv.weight[:dim] = query * strength
        attention.qkv.weight[dim : 2 * dim] = torch.eye(dim)


def planted_vit(img_size: tuple[int, int], targets: dict[int, int]) -> VisionTransformer:
    """One layer, one head, patches of 8: :func:`plant` applied to a model of the given picture size."""
    count = 1 + img_size[0] * img_size[1] // 64
    config = ViTConfig(img_size=img_size, patch_size=8, embed_dim=count + 3, depth=1, num_heads=1, num_classes=2)
    model = VisionTransformer(config).eval()
    plant(model, targets)
    return model
