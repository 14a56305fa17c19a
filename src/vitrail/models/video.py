"""A transformer over the tubelets of a clip: VideoMAE's encoder and classifier.

Source: VideoMAE (Tong et al. 2022): space and time are one sequence, positions are fixed, there is no class token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.heads.pool import PoolName
from vitrail.models.plain import Plain, PlainConfig
from vitrail.nn.attention import Attention
from vitrail.nn.block import Block, Norm
from vitrail.nn.embed import TubeletEmbed, as_pair
from vitrail.nn.init import init_trunc_normal
from vitrail.nn.linear import KeylessLinear
from vitrail.nn.mlp import Mlp
from vitrail.nn.position import add_fixed_positions
from vitrail.nn.tokens import Grid


@dataclass(frozen=True)
class VideoConfig(PlainConfig):
    """Everything that tells one video transformer from another, besides what all plain transformers have.

    Attributes:
        frames: of a clip.
        tubelet_frames: frames that a token spans.
        pool_norm_eps: epsilon of the norm behind the pool, which Transformers' files set apart.
    """

    num_classes: int = 400
    class_token: bool = False
    pool: PoolName = "mean"
    pool_norm: bool = True
    frames: int = 16
    tubelet_frames: int = 2
    pool_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        sides = (self.frames, *as_pair(self.img_size))
        if any(side < step or side % step for side, step in zip(sides, self.tubelet, strict=True)):
            raise VitrailError(
                f"tubelets of {_times(self.tubelet)} (frames, height, width) do not divide clips of {_times(sides)}: "
                f"choose sides that they divide, such as "
                f"{_times([-(-side // step) * step for side, step in zip(sides, self.tubelet, strict=True)])}"
            )

    @property
    def tubelet(self) -> tuple[int, int, int]:
        """Frames, height and width of what becomes a token."""
        return (self.tubelet_frames, *as_pair(self.patch_size))

    @property
    def grid(self) -> Grid:
        """Tubelets along time, height and width."""
        sides = (self.frames, *as_pair(self.img_size))
        return tuple(side // step for side, step in zip(sides, self.tubelet, strict=True))


def _make_block(config: VideoConfig, norm: Norm, drop_path: float) -> nn.Module:
    dim = config.embed_dim
    mixer = Attention(
        dim,
        config.num_heads,
        qkv=KeylessLinear,
        attention_dropout=config.attention_dropout,
        dropout=config.dropout,
    )
    mlp = Mlp(dim, int(dim * config.mlp_ratio), dropout=config.dropout)
    return Block(dim, mixer, mlp, norm, config.layer_scale, drop_path)


class VideoTransformer(Plain[VideoConfig]):
    """Tubelets with fixed positions, an encoder, the mean of the tokens, a classifier.

    Args:
        config: all numbers; ViT-Base on 16 frames of 224 × 224 with the classes of Kinetics-400 when left out.

    Shapes:
        ``(B, in_channels, frames, H, W)`` to logits ``(B, num_classes)``. A token's position is a function of its
        number in the clip, so that it means nothing on another grid: clips are of the size that the model is made for.
    """

    pos_embed: Tensor

    def __init__(self, config: VideoConfig | None = None) -> None:
        config = config or VideoConfig()
        norm = partial(nn.LayerNorm, eps=config.norm_eps)
        tubelets = TubeletEmbed(config.tubelet, config.in_channels, config.embed_dim)
        super().__init__(config, tubelets, partial(_make_block, config, norm), norm)
        if config.pool_norm:
            self.fc_norm = nn.LayerNorm(self.num_features, eps=config.pool_norm_eps)
        add_fixed_positions(self, "pos_embed", config.embed_dim, prod(config.grid))
        init_trunc_normal(self)
        self.reset_classifier(config.num_classes)

    def place(self, values: Float[Tensor, "b n d"], grid: Grid) -> tuple[Float[Tensor, "b n d"], Tensor | None]:
        """Tubelets with the rows of their numbers.

        Raises:
            VitrailError: a clip of another size, naming the one that works.
        """
        if grid != self.config.grid:
            given, own = (
                _times([count * step for count, step in zip(sides, self.config.tubelet, strict=True)])
                for sides in (grid, self.config.grid)
            )
            raise VitrailError(
                f"a clip of {given} (frames, height, width), but this model takes {own}: cut or resize the clip, or "
                "build the model with other frames and img_size"
            )
        return values + self.pos_embed, None

    def example_inputs(self, batch: int = 1, img_size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """A noise clip ``(B, in_channels, frames, H, W)``."""
        reference = next(self.parameters())
        shape = (batch, self.in_channels, self.config.frames, *(img_size or self.img_size))
        return (torch.randn(shape, device=reference.device, dtype=reference.dtype),)


def _times(sides: tuple[int, ...] | list[int]) -> str:
    return "×".join(map(str, sides))


VIDEO_MODELS: dict[str, VideoConfig] = {
    "videomae_small_patch16_224": VideoConfig(embed_dim=384, depth=12, num_heads=6),
    "videomae_base_patch16_224": VideoConfig(embed_dim=768, depth=12, num_heads=12),
    "videomae_large_patch16_224": VideoConfig(embed_dim=1024, depth=24, num_heads=16),
    "videomae_huge_patch16_224": VideoConfig(embed_dim=1280, depth=32, num_heads=16),
}
