"""BEiT: a Vision Transformer whose positions are relative, pretrained by telling what was masked.

Source: Bao et al. 2022, section 2 and appendix. The blocks have layer scale and no bias on the keys; every layer has a
table of distances with three rows for the class token, or one table serves all layers (pretraining).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.heads.pool import PoolName
from vitrail.models.plain import Plain, PlainConfig
from vitrail.nn.attention import Attention
from vitrail.nn.block import Block, Norm
from vitrail.nn.context import NO_CONTEXT, Context
from vitrail.nn.embed import FITS, FitName, PatchEmbed, fitted_grid, require_fitting_size
from vitrail.nn.init import init_trunc_normal
from vitrail.nn.linear import KeylessLinear
from vitrail.nn.mlp import Mlp
from vitrail.nn.relative import BIAS_RESIZES, BiasResizeName, RelativePositionBias
from vitrail.nn.tokens import Grid

HEAD_SCALE = 1e-3
"""A fresh classifier's weights are this much smaller than elsewhere (the authors' ``init_scale``)."""


@dataclass(frozen=True)
class BeitConfig(PlainConfig):
    """What tells one BEiT from another, besides what all plain transformers have.

    Attributes:
        shared_bias: one table of distances for all layers (pretraining) instead of one for each (fine-tuning).
        bias_resize: how the table is brought to another grid; checkpoints differ (see ``nn.relative``).
        fit: pictures that patches do not divide: ``"error"``, ``"pad"`` or ``"resize"``.
    """

    layer_scale: float | None = 0.1
    pool: PoolName = "mean"
    pool_norm: bool = True
    shared_bias: bool = False
    bias_resize: BiasResizeName = "geometric"
    fit: FitName = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fitting_size(self.img_size, self.patch_size, self.fit)
        if self.shared_bias and self.patch_drop:
            raise VitrailError("patch_drop needs shared_bias=False: a shared table does not know what is left")

    @property
    def grid(self) -> Grid:
        """The patch grid at ``img_size``."""
        return fitted_grid(self.img_size, self.patch_size, self.fit)

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return self.class_token + self.registers


def _make_bias(config: BeitConfig) -> RelativePositionBias:
    return RelativePositionBias(
        config.grid, config.num_heads, prefix=config.prefix > 0, resize=BIAS_RESIZES[config.bias_resize]
    )


def _make_block(config: BeitConfig, norm: Norm, drop_path: float) -> nn.Module:
    dim = config.embed_dim
    mixer = Attention(
        dim,
        config.num_heads,
        qkv=KeylessLinear,
        position_bias=None if config.shared_bias else _make_bias(config),
        attention_dropout=config.attention_dropout,
        dropout=config.dropout,
    )
    mlp = Mlp(dim, int(dim * config.mlp_ratio), dropout=config.dropout)
    return Block(dim, mixer, mlp, norm, config.layer_scale, drop_path)


class Beit(Plain[BeitConfig]):
    """Patches behind a class token, blocks with relative positions, the mean, a norm, a classifier.

    Args:
        config: all numbers; BEiT-Base/16 at 224 when left out.

    Shapes:
        ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``; H and W may differ from ``img_size``.
    """

    def __init__(self, config: BeitConfig | None = None) -> None:
        config = config or BeitConfig()
        norm = partial(nn.LayerNorm, eps=config.norm_eps)
        patches = PatchEmbed(config.patch_size, config.in_channels, config.embed_dim, FITS[config.fit])
        super().__init__(config, patches, partial(_make_block, config, norm), norm)
        self.rel_pos_bias = _make_bias(config) if config.shared_bias else None
        init_trunc_normal(self)
        for learned in (self.cls_token, self.mask_token):
            if learned is not None:
                nn.init.trunc_normal_(learned, std=0.02)
        self._calm()
        self.reset_classifier(config.num_classes)

    @torch.no_grad()
    def _calm(self) -> None:
        """The deeper a block, the smaller what it adds at first (section 2.5 of the paper)."""
        for name, parameter in self.blocks.named_parameters():
            number, _, part = name.partition(".")
            if part in ("attn.proj.weight", "mlp.fc2.weight"):
                parameter.div_(math.sqrt(2.0 * (int(number) + 1)))

    def place(self, values: Float[Tensor, "b n d"], grid: Grid) -> tuple[Float[Tensor, "b n d"], Tensor | None]:
        """Patches as they are: their places come in with the attention."""
        return values, None

    def context(self, grid: Grid) -> Context:
        """The shared bias of a grid, where there is one."""
        if self.rel_pos_bias is None:
            return NO_CONTEXT
        return Context(mask=self.rel_pos_bias.bias(grid, self.config.prefix)[None])

    def make_classifier(self, features: int) -> nn.Module:
        """A head that starts near zero."""
        head = super().make_classifier(features)
        if isinstance(head, nn.Linear):
            with torch.no_grad():
                head.weight.mul_(HEAD_SCALE)
        return head


def _sizes() -> dict[str, BeitConfig]:
    """The published sizes by timm's names."""
    base = BeitConfig(embed_dim=768, depth=12, num_heads=12, layer_scale=0.1)
    large = BeitConfig(embed_dim=1024, depth=24, num_heads=16, layer_scale=1e-5)
    sizes = {"base": (base, (224, 384)), "large": (large, (224, 384, 512))}
    return {
        f"beit_{size}_patch16_{pixels}": replace(config, img_size=pixels)
        for size, (config, resolutions) in sizes.items()
        for pixels in resolutions
    }


BEIT_MODELS: dict[str, BeitConfig] = _sizes()
