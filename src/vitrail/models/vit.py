"""The Vision Transformer: ViT, DeiT and DINOv2 are this class with other numbers.

Sources: ViT (Dosovitskiy et al. 2021), DeiT (Touvron et al. 2021), DINOv2 (Oquab et al. 2023), registers (Darcet et al.
2024). Parameter names are the ones that timm, DeiT, DINO, DINOv2 and MAE share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitrail.contracts import Role, VitrailError
from vitrail.heads.pool import POOLS, PoolName, pooled_width
from vitrail.models.backbone import Backbone
from vitrail.nn.attention import Attention
from vitrail.nn.block import Block, Norm, ParallelBlock
from vitrail.nn.embed import (
    Fit,
    PatchEmbed,
    as_pair,
    pad_to_patches,
    patch_grid,
    require_whole_patches,
    resize_to_patches,
)
from vitrail.nn.encoder import Encoder
from vitrail.nn.init import INITS, InitName
from vitrail.nn.mlp import Mlp, SwiGLU, swiglu_hidden
from vitrail.nn.position import RESIZES, ResizeName, resize_positions, sincos_2d
from vitrail.nn.residual import drop_path_rates
from vitrail.nn.tokens import Grid, Tokens, take_patches

FITS: dict[str, Fit] = {
    "error": require_whole_patches,
    "pad": pad_to_patches,
    "resize": resize_to_patches,
}


@dataclass(frozen=True)
class ViTConfig:
    """Everything that tells one Vision Transformer from another.

    Attributes:
        img_size: pixels that the position table is made for, one number or ``(height, width)``.
        patch_size: pixels, one number or ``(height, width)``.
        in_channels: bands of a picture.
        num_classes: of the classifier, 0 for none.
        embed_dim, depth, num_heads: width of a token, number of blocks, heads per block.
        mlp_ratio: MLP width over ``embed_dim`` (for SwiGLU before the two-thirds rule).
        mlp: ``"gelu"`` or ``"swiglu"``.
        block: ``"pre_norm"``, or ``"parallel"`` (ViT-22B).
        qkv_bias, qk_norm: bias of the joint projection; norm of queries and keys.
        layer_scale: initial factor on the residual branches, None for none.
        class_token, distilled, registers, mask_token: which learned tokens there are.
        positions: ``"learned"`` or ``"sincos"`` (fixed).
        class_position: whether prefix tokens (not registers) have rows in the position table.
        pos_resize: how the table is brought to another grid; checkpoints differ (see ``nn.position``).
        fit: pictures that patches do not divide: ``"error"``, ``"pad"`` or ``"resize"``.
        pool: what the classifier reads.
        pool_norm: the final norm stands behind the pool (``fc_norm``) instead of before it.
        norm_eps: epsilon of every LayerNorm.
        dropout, attention_dropout, drop_path: rates while training; ``drop_path`` is that of the last block.
        init: the school of initialisation.
    """

    img_size: int | tuple[int, int] = 224
    patch_size: int | tuple[int, int] = 16
    in_channels: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    mlp: Literal["gelu", "swiglu"] = "gelu"
    block: Literal["pre_norm", "parallel"] = "pre_norm"
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_scale: float | None = None
    class_token: bool = True
    distilled: bool = False
    registers: int = 0
    mask_token: bool = False
    positions: Literal["learned", "sincos"] = "learned"
    class_position: bool = True
    pos_resize: ResizeName = "bicubic_antialias"
    fit: Literal["error", "pad", "resize"] = "error"
    pool: PoolName = "class"
    pool_norm: bool = False
    norm_eps: float = 1e-6
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    init: InitName = "trunc_normal"

    def __post_init__(self) -> None:
        size, patch = as_pair(self.img_size), as_pair(self.patch_size)
        if self.fit == "error" and any(s < p or s % p for s, p in zip(size, patch, strict=True)):
            raise VitrailError(
                f"img_size {size[0]}x{size[1]} is not a multiple of patch_size {patch[0]}x{patch[1]}: choose "
                f"another size (such as {-(-size[0] // patch[0]) * patch[0]}x{-(-size[1] // patch[1]) * patch[1]}), "
                "or fit='pad' or fit='resize'"
            )
        if self.embed_dim % self.num_heads:
            raise VitrailError(f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}")
        if self.pool in ("class", "class_mean") and not self.class_token:
            raise VitrailError(f"pool={self.pool!r} needs class_token=True; without one use pool='mean'")
        if self.distilled and not self.class_token:
            raise VitrailError("distilled=True needs class_token=True: DeiT's two heads read two tokens")
        if self.depth < 1 or self.num_classes < 0 or self.registers < 0:
            raise VitrailError(
                f"depth must be at least 1 and num_classes and registers not negative "
                f"(depth={self.depth}, num_classes={self.num_classes}, registers={self.registers})"
            )

    @property
    def grid(self) -> Grid:
        """The patch grid at ``img_size``."""
        size, patch = as_pair(self.img_size), as_pair(self.patch_size)
        if self.fit == "error":
            return patch_grid(size, patch)
        whole = (round, lambda x: -int(-x // 1))[self.fit == "pad"]
        return tuple(max(1, whole(s / p)) for s, p in zip(size, patch, strict=True))


def _make_block(config: ViTConfig, norm: Norm, drop_path: float) -> nn.Module:
    dim = config.embed_dim
    mixer = Attention(
        dim,
        config.num_heads,
        qkv_bias=config.qkv_bias,
        qk_norm=norm if config.qk_norm else None,
        attention_dropout=config.attention_dropout,
        dropout=config.dropout,
    )
    if config.mlp == "swiglu":
        mlp: nn.Module = SwiGLU(dim, swiglu_hidden(dim, config.mlp_ratio), dropout=config.dropout)
    else:
        mlp = Mlp(dim, int(dim * config.mlp_ratio), dropout=config.dropout)
    make = {"pre_norm": Block, "parallel": ParallelBlock}[config.block]
    return make(dim, mixer, mlp, norm, config.layer_scale, drop_path)


class VisionTransformer(Backbone):
    """Patches, learned tokens and positions, an encoder, a classifier.

    Args:
        config: all numbers; ViT-Base/16 at 224 when left out.
        img_size, patch_size, in_channels, num_classes, embed_dim, depth, num_heads, mlp_ratio, dropout: the papers'
            own names, each replaces what ``config`` says.

    Shapes:
        ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``; H and W may differ from ``img_size``.
    """

    def __init__(
        self,
        config: ViTConfig | None = None,
        *,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
        in_channels: int | None = None,
        num_classes: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float | None = None,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        named = {
            "img_size": img_size,
            "patch_size": patch_size,
            "in_channels": in_channels,
            "num_classes": num_classes,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "dropout": dropout,
        }
        config = replace(config or ViTConfig(), **{name: v for name, v in named.items() if v is not None})
        self.config = config
        self.img_size = as_pair(config.img_size)
        self.patch_size = as_pair(config.patch_size)
        self.in_channels = config.in_channels
        self.num_features = pooled_width(config.pool, config.embed_dim)
        norm = partial(nn.LayerNorm, eps=config.norm_eps)
        dim = config.embed_dim

        self.patch_embed = PatchEmbed(config.patch_size, config.in_channels, dim, FITS[config.fit])
        self.cls_token = _token(1, dim) if config.class_token else None
        self.dist_token = _token(1, dim) if config.distilled else None
        self.reg_token = _token(config.registers, dim) if config.registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, dim)) if config.mask_token else None
        self.pos_embed = self._make_positions()
        self.pos_drop = nn.Dropout(config.dropout)
        self.blocks = Encoder(
            [_make_block(config, norm, rate) for rate in drop_path_rates(config.drop_path, config.depth)]
        )
        self.norm = nn.Identity() if config.pool_norm else norm(dim)
        self.attn_pool = POOLS[config.pool](dim, config.num_heads)
        self.fc_norm = norm(self.num_features) if config.pool_norm else nn.Identity()
        INITS[config.init](self)
        self.reset_classifier(config.num_classes)

    def _make_positions(self) -> nn.Parameter:
        """The table, with rows for class and distillation token first where they have positions."""
        config = self.config
        prefix = config.class_token + config.distilled if config.class_position else 0
        if config.positions == "sincos":
            table = sincos_2d(config.embed_dim, config.grid, prefix)
            return nn.Parameter(table, requires_grad=False)
        return _token(prefix + prod(config.grid), config.embed_dim, std=0.02)

    # ------------------------------------------------------------------ pictures into tokens

    def embed(
        self,
        images: Float[Tensor, "b c h w"],
        mask: Bool[Tensor, "b n"] | None = None,
        keep: Int[Tensor, "b k"] | None = None,
    ) -> Tokens:
        """Patches with positions behind the learned tokens: what the first block sees.

        Args:
            images: ``(B, C, H, W)``.
            mask: True where a patch is replaced by the mask token (BEiT, iBOT), before positions are added.
            keep: which patches go on, in this order (MAE); the others are never computed further.
        """
        tokens = self.patch_embed(images)
        values = tokens.values
        if mask is not None:
            if self.mask_token is None:
                raise VitrailError("this model has no mask token: build it with mask_token=True")
            values = torch.where(mask.unsqueeze(-1), self.mask_token.to(values.dtype), values)
        table = resize_positions(self.pos_embed, self.config.grid, tokens.grid, RESIZES[self.config.pos_resize])
        prefix = table.shape[1] - values.shape[1]
        values = values + table[:, prefix:]
        if keep is not None:
            values = take_patches(values, keep)
        tokens = Tokens(values, tokens.grid, keep=keep).prepend(self._prefix(table[:, :prefix], len(images)))
        return tokens.with_values(self.pos_drop(tokens.values))

    def _prefix(self, positions: Float[Tensor, "1 p d"], batch: int) -> Float[Tensor, "b p2 d"]:
        """Class and distillation token (with positions where they have any), then registers (never with any)."""
        placed: list[Tensor] = [token for token in (self.cls_token, self.dist_token) if token is not None]
        joined = torch.cat(placed, dim=1) if placed else positions
        if placed and positions.shape[1]:
            joined = joined + positions
        if self.reg_token is not None:
            joined = torch.cat([joined, self.reg_token], dim=1)
        return joined.expand(batch, -1, -1)

    # ------------------------------------------------------------------ tokens into answers

    def features(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        """Tokens after the last block and the final norm."""
        tokens = self.blocks(self.embed(images))
        return tokens.with_values(self.norm(tokens.values))

    def intermediates(self, images: Float[Tensor, "b c h w"], depths: Sequence[int], norm: bool = True) -> list[Tokens]:
        """Tokens after chosen blocks, through the final norm or as they are."""
        taps = self.blocks.taps(self.embed(images), depths)
        return [tap.with_values(self.norm(tap.values)) for tap in taps] if norm else taps

    def pool(self, tokens: Tokens) -> Float[Tensor, "b f"]:
        """One vector per picture, ``(B, num_features)``."""
        return self.fc_norm(self.attn_pool(tokens))

    def classify(self, tokens: Tokens) -> Float[Tensor, "b k"]:
        """Logits; DeiT's are the mean of its two heads (section 4 of DeiT)."""
        if self.head_dist is None:
            return self.head(self.pool(tokens))
        return torch.stack(self.classify_both(tokens)).mean(dim=0)

    def classify_both(self, tokens: Tokens) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        """Logits of the class head and of the distillation head, each from its own token."""
        if self.head_dist is None:
            raise VitrailError("this model has one head: build it with distilled=True for two")
        return self.head(self.pool(tokens)), self.head_dist(self.fc_norm(tokens.values[:, 1]))

    def reset_classifier(self, num_classes: int) -> None:
        """Fresh head (or two), initialised as the others were; 0 takes it away."""
        self.num_classes = num_classes
        self.config = replace(self.config, num_classes=num_classes)
        reference = self.pos_embed
        self.head = _classifier(self.num_features, num_classes).to(reference.device, reference.dtype)
        self.head_dist = None
        if self.config.distilled and num_classes:
            self.head_dist = _classifier(self.config.embed_dim, num_classes).to(reference.device, reference.dtype)

    @torch.no_grad()
    def set_classifier(self, weight: Float[Tensor, "k f"], bias: Float[Tensor, " k"]) -> None:
        """Give the class head these values; a distillation head is left as it is."""
        if not isinstance(self.head, nn.Linear) or self.head.weight.shape != weight.shape:
            raise VitrailError(f"a classifier of {tuple(weight.shape)} does not fit {self.head}")
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)

    def roles(self) -> dict[str, Role]:
        """Embedding 0, block ``i`` at ``i + 1``, the rest last; decay for matrices only, not tokens or positions."""
        last = len(self.blocks) + 1
        first = ("patch_embed", "cls_token", "dist_token", "reg_token", "mask_token", "pos_embed")
        roles = {}
        for name, parameter in self.named_parameters():
            part = name.split(".")
            depth = 0 if part[0] in first else int(part[1]) + 1 if part[0] == "blocks" else last
            is_token = part[-1].endswith("_token") or part[-1] in ("pos_embed", "latent")
            roles[name] = Role(depth, decay=parameter.ndim > 1 and not is_token)
        return roles


def _token(count: int, dim: int, std: float = 1e-6) -> nn.Parameter:
    """Learned rows ``(1, count, dim)``; tokens start near zero, positions with deviation 0.02."""
    token = nn.Parameter(torch.empty(1, count, dim))
    nn.init.trunc_normal_(token, std=std)
    return token


def _classifier(features: int, num_classes: int) -> nn.Module:
    if not num_classes:
        return nn.Identity()
    head = nn.Linear(features, num_classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def _sizes() -> dict[str, ViTConfig]:
    """The published sizes by timm's names."""
    sizes = {
        "tiny": ViTConfig(embed_dim=192, depth=12, num_heads=3),
        "small": ViTConfig(embed_dim=384, depth=12, num_heads=6),
        "base": ViTConfig(embed_dim=768, depth=12, num_heads=12),
        "large": ViTConfig(embed_dim=1024, depth=24, num_heads=16),
        "huge": ViTConfig(embed_dim=1280, depth=32, num_heads=16),
        "giant": ViTConfig(embed_dim=1408, depth=40, num_heads=16, mlp_ratio=48 / 11),
    }
    table: dict[str, ViTConfig] = {}
    for size, config in sizes.items():
        for patch in (8, 14, 16, 32):
            for pixels in (224, 384):
                if pixels % patch == 0:
                    table[f"vit_{size}_patch{patch}_{pixels}"] = replace(config, img_size=pixels, patch_size=patch)
    for size in ("tiny", "small", "base"):
        table[f"deit_{size}_patch16_224"] = sizes[size]
        table[f"deit_{size}_distilled_patch16_224"] = replace(sizes[size], distilled=True)
    table["deit_base_patch16_384"] = replace(sizes["base"], img_size=384)
    table["deit_base_distilled_patch16_384"] = replace(sizes["base"], img_size=384, distilled=True)
    dino = {
        **sizes,
        "giant": ViTConfig(embed_dim=1536, depth=40, num_heads=24, mlp="swiglu"),
    }
    for size in ("small", "base", "large", "giant"):
        plain = replace(
            dino[size],
            img_size=518,
            patch_size=14,
            num_classes=0,
            layer_scale=1e-5,
            mask_token=True,
            pos_resize="bicubic_offset",
        )
        table[f"vit_{size}_patch14_dinov2"] = plain
        table[f"vit_{size}_patch14_reg4_dinov2"] = replace(plain, registers=4, pos_resize="bicubic_antialias")
    return table


VIT_MODELS: dict[str, ViTConfig] = _sizes()
