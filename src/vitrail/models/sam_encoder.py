"""A plain transformer with windows: most blocks mix inside windows, a few evenly spaced ones over the whole picture.

Sources: ViTDet (Li et al. 2022, section 3) for the mixture; SAM (Kirillov et al. 2023, appendix A, "Image encoder").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import Role, VitrailError
from vitrail.models.backbone import Backbone, copy_linear, fresh_linear
from vitrail.models.model import ModelConfig
from vitrail.nn.attention import Attention
from vitrail.nn.block import Block, Norm
from vitrail.nn.decomposed import DecomposedPositions
from vitrail.nn.embed import PatchEmbed, as_pair, patch_grid
from vitrail.nn.encoder import Encoder
from vitrail.nn.init import init_trunc_normal
from vitrail.nn.mixer import Mixer
from vitrail.nn.mlp import Mlp
from vitrail.nn.norm import LayerNorm2d
from vitrail.nn.position import resize_bicubic_antialias, resize_positions
from vitrail.nn.residual import drop_path_rates
from vitrail.nn.tokens import Grid, Tokens
from vitrail.nn.window import WindowMixer


@dataclass(frozen=True)
class SamEncoderConfig(ModelConfig):
    """The numbers of SAM's image encoder.

    Attributes:
        patch_size: pixels, one number or ``(height, width)``.
        embed_dim, depth, num_heads: width of a token, number of blocks, heads per block.
        mlp_ratio: MLP width over ``embed_dim``.
        window: rows and columns of a window.
        global_blocks: numbers of the blocks that mix over the whole picture.
        neck_dim: channels of the feature map that comes out.
        norm_eps: epsilon of the blocks' norms.
        dropout, attention_dropout, drop_path: rates while training; ``drop_path`` is that of the last block.
    """

    img_size: int | tuple[int, int] = 1024
    num_classes: int = 0
    patch_size: int | tuple[int, int] = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    window: int = 14
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    neck_dim: int = 256
    norm_eps: float = 1e-6
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        size, patch = as_pair(self.img_size), as_pair(self.patch_size)
        if any(s < p or s % p for s, p in zip(size, patch, strict=True)):
            near = "x".join(str(max(1, round(s / p)) * p) for s, p in zip(size, patch, strict=True))
            raise VitrailError(
                f"img_size {size[0]}x{size[1]} is not a multiple of patch_size {patch[0]}x{patch[1]}: use {near}"
            )
        if self.embed_dim % self.num_heads:
            raise VitrailError(f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}")
        if self.depth < 1 or self.num_classes < 0 or self.window < 1:
            raise VitrailError(
                f"depth and window must be at least 1 and num_classes not negative (depth={self.depth}, "
                f"window={self.window}, num_classes={self.num_classes})"
            )
        if any(not 0 <= number < self.depth for number in self.global_blocks):
            raise VitrailError(
                f"global_blocks {self.global_blocks} names blocks that an encoder of depth {self.depth} does not have: "
                "give both"
            )

    @property
    def grid(self) -> Grid:
        """The patch grid at ``img_size``."""
        return patch_grid(as_pair(self.img_size), as_pair(self.patch_size))


def _mixer(config: SamEncoderConfig, whole: bool) -> Mixer:
    window = (config.window, config.window)
    attention = Attention(
        config.embed_dim,
        config.num_heads,
        position_bias=DecomposedPositions(config.grid if whole else window, config.embed_dim // config.num_heads),
        attention_dropout=config.attention_dropout,
        dropout=config.dropout,
    )
    return attention if whole else WindowMixer(attention, window)


def _block(config: SamEncoderConfig, number: int, drop_path: float, norm: Norm) -> Block:
    dim = config.embed_dim
    mlp = Mlp(dim, int(dim * config.mlp_ratio), dropout=config.dropout)
    return Block(dim, _mixer(config, number in config.global_blocks), mlp, norm, drop_path=drop_path)


class SamEncoder(Backbone[SamEncoderConfig]):
    """Patches with learned positions, blocks, and a neck of two convolutions that gives ``neck_dim`` channels.

    As a backbone of its own it pools by the mean and may carry a classifier (timm's ``samvit``).

    Args:
        config: all numbers.

    Shapes:
        ``(B, in_channels, H, W)`` to ``(B, num_classes)`` or ``(B, neck_dim)``; H and W may differ from ``img_size`` as
        long as patches divide them: learned positions are resized (bicubic, antialiased), relative ones linearly.
    """

    def __init__(self, config: SamEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.img_size = as_pair(config.img_size)
        self.patch_size = as_pair(config.patch_size)
        self.in_channels = config.in_channels
        self.num_features = config.neck_dim
        self.taps = config.depth
        norm = partial(nn.LayerNorm, eps=config.norm_eps)
        self.patch_embed = PatchEmbed(self.patch_size, config.in_channels, config.embed_dim)
        self.pos_embed = nn.Parameter(torch.empty(1, *config.grid, config.embed_dim))
        self.pos_drop = nn.Dropout(config.dropout)
        rates = drop_path_rates(config.drop_path, config.depth)
        self.blocks = Encoder([_block(config, number, rate, norm) for number, rate in enumerate(rates)])
        self.neck = nn.Sequential(
            nn.Conv2d(config.embed_dim, config.neck_dim, 1, bias=False),
            LayerNorm2d(config.neck_dim),
            nn.Conv2d(config.neck_dim, config.neck_dim, 3, padding=1, bias=False),
            LayerNorm2d(config.neck_dim),
        )
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        init_trunc_normal(self)
        self.reset_classifier(config.num_classes)

    def embed(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        """Patches with their positions: what the first block sees."""
        tokens = self.patch_embed(images)
        values, _ = self.place(tokens.values, tokens.grid)
        return tokens.with_values(self.pos_drop(values))

    def place(self, values: Float[Tensor, "b n d"], grid: Grid) -> tuple[Float[Tensor, "b n d"], None]:
        """Patches with their positions, resized to their grid; there are no prefix tokens to place."""
        table = resize_positions(self.pos_embed.flatten(1, 2), self.config.grid, grid, resize_bicubic_antialias)
        return values + table, None

    def finish(self, tokens: Tokens) -> Tokens:
        """Tokens of any block through the neck, which ends in this family's final norm."""
        return tokens.with_values(self.neck(tokens.feature_map()).flatten(2).transpose(1, 2))

    def features(self, images: Tensor) -> Tokens:
        """Tokens after the last block and the neck, ``neck_dim`` wide."""
        return self.finish(self.blocks(self.embed(images)))

    def intermediates(self, images: Tensor, depths: Sequence[int], norm: bool = True) -> list[Tokens]:
        """Tokens after chosen blocks; with ``norm`` through the neck, which ends in this family's final norm."""
        taps = self.blocks.taps(self.embed(images), depths)
        return [self.finish(tap) for tap in taps] if norm else taps

    def pool(self, tokens: Tokens) -> Float[Tensor, "b f"]:
        """The mean over the grid, ``(B, neck_dim)``."""
        return tokens.patches.mean(dim=1)

    def classify(self, tokens: Tokens) -> Float[Tensor, "b k"]:
        """Logits."""
        return self.head(self.pool(tokens))

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh linear layer; 0 takes it away."""
        self.num_classes = num_classes
        self.config = replace(self.config, num_classes=num_classes)
        self.head = fresh_linear(self.num_features, num_classes, self.pos_embed)

    @torch.no_grad()
    def set_classifier(self, weight: Float[Tensor, "k f"], bias: Float[Tensor, " k"]) -> None:
        """Give the classifier these values."""
        copy_linear(self.head, weight, bias)

    def roles(self) -> dict[str, Role]:
        """Embedding 0, block ``i`` at ``i + 1``, neck and classifier last; no decay for positions of either kind."""
        tables = ("pos_embed", "rel_pos_h", "rel_pos_w")
        roles = {}
        for name, parameter in self.named_parameters():
            part = name.split(".")
            last = self.taps + 1 if part[0] in ("neck", "head") else 0
            depth = int(part[1]) + 1 if part[0] == "blocks" else last
            roles[name] = Role(depth, decay=parameter.ndim > 1 and part[-1] not in tables)
        return roles


SAM_ENCODERS: dict[str, SamEncoderConfig] = {
    "samvit_base_patch16": SamEncoderConfig(),
    "samvit_large_patch16": SamEncoderConfig(embed_dim=1024, depth=24, num_heads=16, global_blocks=(5, 11, 17, 23)),
    "samvit_huge_patch16": SamEncoderConfig(embed_dim=1280, depth=32, num_heads=16, global_blocks=(7, 15, 23, 31)),
}
