"""Build ViT-Base/16 from its parts, run a picture through it and count its parameters.

Run: python examples/vit_from_parts.py
"""

from functools import partial

import torch
from torch import nn

from vitrail.nn import Attention, Block, Encoder, Mlp, PatchEmbed


class ViTBase(nn.Module):
    """Sixteen-pixel patches, a class token, twelve blocks, a thousand classes."""

    def __init__(self) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.patch_embed = PatchEmbed(patch_size=16, in_channels=3, embed_dim=768)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 768))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + 14 * 14, 768) * 0.02)
        self.blocks = Encoder([Block(768, Attention(768, num_heads=12), Mlp(768, 3072), norm) for _ in range(12)])
        self.norm = norm(768)
        self.head = nn.Linear(768, 1000)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures ``(B, 3, 224, 224)`` to logits ``(B, 1000)``."""
        tokens = self.patch_embed(images).prepend(self.cls_token.expand(len(images), -1, -1))
        tokens = self.blocks(tokens.with_values(tokens.values + self.pos_embed))
        return self.head(self.norm(tokens.values[:, 0]))


if __name__ == "__main__":
    model = ViTBase()
    print(tuple(model(torch.randn(1, 3, 224, 224)).shape))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
