"""DINOv3: rotary positions instead of a table, register tokens, and no bias on the keys.

Source: Siméoni et al. 2025, section 3.2 and appendix. Angles depend on where a patch stands between the borders of the
picture, so that one model takes every size; they are computed once per forward pass and shared by all blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.models.plain import Plain, PlainConfig
from vitrail.nn.attention import Attention
from vitrail.nn.block import Block, Norm
from vitrail.nn.context import Context
from vitrail.nn.embed import FITS, FitName, PatchEmbed, require_fitting_size
from vitrail.nn.init import init_trunc_normal
from vitrail.nn.linear import KeylessLinear
from vitrail.nn.mlp import MLPS, MlpName
from vitrail.nn.rotary import RotaryGrid
from vitrail.nn.tokens import Grid


@dataclass(frozen=True)
class DINOv3Config(PlainConfig):
    """What tells one DINOv3 from another, besides what all plain transformers have.

    Attributes:
        mlp: ``"gelu"`` or ``"swiglu"`` (its ``mlp_ratio`` is the one before the two-thirds rule).
        qkv_bias: biases of queries and values; keys never have one.
        rope_base: the rotary periods are ``rope_base`` to the powers 0 … 1 (exclusive).
        rope_shift, rope_jitter, rope_rescale: how coordinates are disturbed while training (see
            :class:`~vitrail.nn.RotaryGrid`); None for not at all. As published, they are rescaled by 1/2 … 2.
        fit: pictures that patches do not divide: ``"error"``, ``"cut"``, ``"pad"`` or ``"resize"``.
    """

    img_size: int | tuple[int, int] = 256
    num_classes: int = 0
    layer_scale: float | None = 1e-5
    registers: int = 4
    mask_token: bool = True
    norm_eps: float = 1e-5
    mlp: MlpName = "gelu"
    qkv_bias: bool = True
    rope_base: float = 100.0
    rope_shift: float | None = None
    rope_jitter: float | None = None
    rope_rescale: float | None = 2.0
    fit: FitName = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fitting_size(self.img_size, self.patch_size, self.fit)
        if self.head_dim % 4:
            raise VitrailError(
                f"rotary positions need heads of a width that 4 divides, not {self.head_dim} "
                f"(embed_dim {self.embed_dim}, num_heads {self.num_heads})"
            )
        if self.rope_base <= 0 or any(most is not None and most < 1 for most in (self.rope_jitter, self.rope_rescale)):
            raise VitrailError(
                f"rope_base must be above 0, rope_jitter and rope_rescale at least 1 "
                f"({self.rope_base}, {self.rope_jitter}, {self.rope_rescale})"
            )

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.embed_dim // self.num_heads


def _make_block(config: DINOv3Config, norm: Norm, drop_path: float) -> nn.Module:
    dim = config.embed_dim
    mixer = Attention(
        dim,
        config.num_heads,
        qkv=KeylessLinear if config.qkv_bias else partial(nn.Linear, bias=False),
        attention_dropout=config.attention_dropout,
        dropout=config.dropout,
    )
    mlp = MLPS[config.mlp](dim, config.mlp_ratio, config.dropout)
    return Block(dim, mixer, mlp, norm, config.layer_scale, drop_path)


class DINOv3(Plain[DINOv3Config]):
    """Patches behind a class and register tokens; every block turns queries and keys by their place.

    Args:
        config: all numbers.

    Shapes:
        ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``, or the class token when there is no classifier.
    """

    def __init__(self, config: DINOv3Config) -> None:
        norm = partial(nn.LayerNorm, eps=config.norm_eps)
        patches = PatchEmbed(config.patch_size, config.in_channels, config.embed_dim, FITS[config.fit])
        super().__init__(config, patches, partial(_make_block, config, norm), norm)
        self.rope = RotaryGrid(
            config.head_dim, config.rope_base, config.rope_shift, config.rope_jitter, config.rope_rescale
        )
        init_trunc_normal(self)
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)
        self.reset_classifier(config.num_classes)

    def place(self, values: Float[Tensor, "b n d"], grid: Grid) -> tuple[Float[Tensor, "b n d"], Tensor | None]:
        """Patches as they are: their places come in with the attention."""
        return values, None

    def context(self, grid: Grid) -> Context:
        """The angles of a grid, for all blocks."""
        return Context(rotary=self.rope(grid))


def _sizes() -> dict[str, DINOv3Config]:
    """The published sizes by timm's names."""
    small = DINOv3Config(embed_dim=384, depth=12, num_heads=6)
    sizes = {
        "small": small,
        "small_plus": replace(small, mlp="swiglu", mlp_ratio=6.0),
        "base": DINOv3Config(embed_dim=768, depth=12, num_heads=12),
        "large": DINOv3Config(embed_dim=1024, depth=24, num_heads=16),
        "huge_plus": DINOv3Config(embed_dim=1280, depth=32, num_heads=20, mlp="swiglu", mlp_ratio=6.0),
        "7b": DINOv3Config(embed_dim=4096, depth=40, num_heads=32, mlp="swiglu", mlp_ratio=3.0, qkv_bias=False),
    }
    return {f"vit_{size}_patch16_dinov3": config for size, config in sizes.items()}


DINOV3_MODELS: dict[str, DINOv3Config] = _sizes()
