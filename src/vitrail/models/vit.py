"""The Vision Transformer: ViT, DeiT, DINO and DINOv2 are this class with other numbers.

Sources: ViT (Dosovitskiy et al. 2021), DeiT (Touvron et al. 2021), DINO (Caron et al. 2021), DINOv2 (Oquab et al.
2023), registers (Darcet et al. 2024), the parallel block (ViT-22B, Dehghani et al. 2023, section 2.1). Parameter names
are the ones that timm, DeiT, DINO, DINOv2 and MAE share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.models.plain import Plain, PlainConfig, token
from vitrail.nn.attention import Attention
from vitrail.nn.block import Block, Norm, ParallelBlock
from vitrail.nn.embed import FITS, FitName, PatchEmbed, fitted_grid, require_fitting_size
from vitrail.nn.init import INITS, InitName
from vitrail.nn.mlp import MLPS, MlpName
from vitrail.nn.position import RESIZES, ResizeName, add_positions, sincos_2d
from vitrail.nn.tokens import Grid, Tokens

NormName = Literal["layer", "rms"]
NORMS: dict[NormName, Callable[..., nn.Module]] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}


@dataclass(frozen=True)
class ViTConfig(PlainConfig):
    """Everything that tells one Vision Transformer from another, besides what all plain transformers have.

    Attributes:
        mlp: ``"gelu"`` or ``"swiglu"`` (its ``mlp_ratio`` is the one before the two-thirds rule).
        block: ``"pre_norm"``, or ``"parallel"`` (ViT-22B).
        qkv_bias, qk_norm: bias of the joint projection; norm of queries and keys.
        norm: every norm's kind: ``"layer"``, or ``"rms"`` (without bias and centring: ViT-22B).
        distilled: whether there is a distillation token.
        positions: ``"learned"`` or ``"sincos"`` (fixed).
        class_position: whether prefix tokens (not registers) have rows in the position table.
        pos_resize: how the table is brought to another grid; checkpoints differ (see ``nn.position``).
        fit: pictures that patches do not divide: ``"error"``, ``"cut"``, ``"pad"`` or ``"resize"``.
        init: the school of initialisation.
    """

    mlp: MlpName = "gelu"
    block: Literal["pre_norm", "parallel"] = "pre_norm"
    qkv_bias: bool = True
    qk_norm: bool = False
    norm: NormName = "layer"
    distilled: bool = False
    positions: Literal["learned", "sincos"] = "learned"
    class_position: bool = True
    pos_resize: ResizeName = "bicubic_antialias"
    fit: FitName = "error"
    init: InitName = "trunc_normal"

    def __post_init__(self) -> None:
        require_fitting_size(self.img_size, self.patch_size, self.fit)
        if self.distilled and not self.class_token:
            raise VitrailError("distilled=True needs class_token=True: DeiT's two heads read two tokens")
        if self.distilled and self.pool == "class_mean" and self.pool_norm:
            raise VitrailError(
                "pool='class_mean' with pool_norm=True has one norm for two tokens side by side, through which DeiT's "
                "second head cannot read one: choose pool_norm=False, another pool, or distilled=False"
            )
        super().__post_init__()

    @property
    def prefix(self) -> int:
        """How many tokens stand before the patches."""
        return self.class_token + self.distilled + self.registers

    @property
    def grid(self) -> Grid:
        """The patch grid at ``img_size``."""
        return fitted_grid(self.img_size, self.patch_size, self.fit)


def _make_block(config: ViTConfig, norm: Norm, drop_path: float) -> nn.Module:
    dim = config.embed_dim
    mixer = Attention(
        dim,
        config.num_heads,
        qkv=partial(nn.Linear, bias=config.qkv_bias),
        qk_norm=norm if config.qk_norm else None,
        attention_dropout=config.attention_dropout,
        dropout=config.dropout,
    )
    mlp = MLPS[config.mlp](dim, config.mlp_ratio, config.dropout)
    make = {"pre_norm": Block, "parallel": ParallelBlock}[config.block]
    return make(dim, mixer, mlp, norm, config.layer_scale, drop_path)


class VisionTransformer(Plain[ViTConfig]):
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
        norm = partial(NORMS[config.norm], eps=config.norm_eps)
        patches = PatchEmbed(config.patch_size, config.in_channels, config.embed_dim, FITS[config.fit])
        super().__init__(config, patches, partial(_make_block, config, norm), norm)
        self.dist_token = token(1, config.embed_dim) if config.distilled else None
        self.pos_embed = _positions(config)
        INITS[config.init](self)
        self.reset_classifier(config.num_classes)

    def place(self, values: Float[Tensor, "b n d"], grid: Grid) -> tuple[Float[Tensor, "b n d"], Tensor | None]:
        """Patches with the rows of the table, resized to their grid."""
        return add_positions(values, self.pos_embed, self.config.grid, grid, RESIZES[self.config.pos_resize])

    def classify(self, tokens: Tokens) -> Float[Tensor, "b k"]:
        """Logits; DeiT's are the mean of its two heads (section 4 of DeiT)."""
        if self.head_dist is None:
            return super().classify(tokens)
        return torch.stack(self.classify_both(tokens)).mean(dim=0)

    def reads(self) -> int | None:
        """As of every plain transformer; DeiT's second head looks at the second token."""
        count = super().reads()
        return count if self.head_dist is None or count is None else max(count, 2)

    def classify_both(self, tokens: Tokens) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        """Logits of the class head and of the distillation head, each from its own token."""
        if self.head_dist is None:
            raise VitrailError("this model has one head: build it with distilled=True for two")
        return super().classify(tokens), self.head_dist(self.fc_norm(tokens.values[:, 1]))

    def reset_classifier(self, num_classes: int) -> None:
        """Fresh head (or two), initialised as the others were; 0 takes it away."""
        super().reset_classifier(num_classes)
        self.head_dist = None
        if self.config.distilled and num_classes:
            self.head_dist = self.make_classifier(self.config.embed_dim)


def _positions(config: ViTConfig) -> nn.Parameter:
    """The table, with rows for class and distillation token first where they have positions."""
    prefix = config.class_token + config.distilled if config.class_position else 0
    if config.positions == "sincos":
        return nn.Parameter(sincos_2d(config.embed_dim, config.grid, prefix), requires_grad=False)
    return token(prefix + prod(config.grid), config.embed_dim, std=0.02)


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
    for size in ("small", "base"):
        for patch in (8, 16):
            table[f"vit_{size}_patch{patch}_dino"] = replace(
                sizes[size], patch_size=patch, num_classes=0, pos_resize="bicubic_offset"
            )
    for size in ("tiny", "small", "base", "large"):
        table[f"vit_parallel_{size}_patch16_224"] = replace(
            sizes[size], block="parallel", qk_norm=True, qkv_bias=False, norm="rms"
        )
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
