"""Masks and their expected quality from a picture's tokens and the tokens of a prompt.

Source: SAM (Kirillov et al. 2023, section 3 and appendix A).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import MLP

from vitrail.heads.two_way import TwoWayTransformer
from vitrail.nn.norm import LayerNorm2d
from vitrail.nn.tokens import Tokens


class MaskDecoder(nn.Module):
    """Learned output tokens go with the prompt through a two-way transformer; each then becomes a mask.

    A mask is the product of the picture's tokens, upscaled four times, with a vector that an MLP of its own makes of
    its output token. The first mask is meant for prompts that say exactly what is wanted, the others for ambiguous
    ones. A further token becomes the predicted IoU of every mask with the truth.

    Args:
        dim: width of a token, a multiple of 8.
        depth, num_heads, mlp_dim, eps: of the :class:`~vitrail.heads.two_way.TwoWayTransformer`.
        num_masks: masks for ambiguous prompts, besides the one for others.
        iou_dim: width of the MLP that predicts the IoU.
    """

    def __init__(
        self,
        dim: int,
        depth: int = 2,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        num_masks: int = 3,
        iou_dim: int = 256,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.iou_token = nn.Parameter(torch.randn(1, dim))
        self.mask_tokens = nn.Parameter(torch.randn(num_masks + 1, dim))
        self.transformer = TwoWayTransformer(dim, depth, num_heads, mlp_dim, eps)
        self.upscale = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.hyper = nn.ModuleList(MLP(dim, [dim, dim, dim // 8]) for _ in range(num_masks + 1))
        self.iou_head = MLP(dim, [iou_dim, iou_dim, num_masks + 1])

    def forward(
        self, image: Tokens, places: Float[Tensor, "#b n d"], prompt: Float[Tensor, "b k d"]
    ) -> tuple[Float[Tensor, "b m h4 w4"], Float[Tensor, "b m"]]:
        """Logits of all masks, on a grid four times as fine, and their predicted IoU.

        Args:
            image: a picture for every prompt, ``(B, N, D)``.
            places: positions of the patches.
            prompt: tokens of the prompts; ``K`` may be 0.
        """
        outputs = torch.cat([self.iou_token, self.mask_tokens]).expand(len(prompt), -1, -1)
        values = torch.cat([outputs, prompt.to(outputs.dtype)], dim=1)
        queries, image = self.transformer(Tokens(values, (values.shape[1],)), image, places)
        vectors = [mlp(queries.values[:, 1 + i]) for i, mlp in enumerate(self.hyper)]
        upscaled = self.upscale(image.feature_map())
        masks = torch.stack(vectors, dim=1) @ upscaled.flatten(2)
        return masks.unflatten(2, upscaled.shape[-2:]), self.iou_head(queries.values[:, 0])
