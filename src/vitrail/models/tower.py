"""The image tower of a contrastive pair: the plain transformer of CLIP and SigLIP, for use on its own as well.

Sources: CLIP (Radford et al. 2021, section 2.4: a norm before the first block), SigLIP (Zhai et al. 2023: no class
token, an attention pool). Names follow timm's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.heads.pool import AttentionPool
from vitrail.models.plain import Plain, PlainConfig, token
from vitrail.nn.activation import ACTIVATIONS, ActivationName
from vitrail.nn.attention import Attention
from vitrail.nn.block import Block, Norm
from vitrail.nn.embed import FITS, FitName, PatchEmbed, fitted_grid, require_fitting_size
from vitrail.nn.init import init_jax, init_scaled
from vitrail.nn.mlp import Mlp
from vitrail.nn.position import RESIZES, ResizeName, add_positions
from vitrail.nn.tokens import Grid


@dataclass(frozen=True)
class ImageTowerConfig(PlainConfig):
    """What an image tower adds to a plain transformer.

    Attributes:
        activation: of every MLP: OpenAI's weights were trained with ``"quick_gelu"``, SigLIP's with ``"gelu_tanh"``.
        embed_norm: tokens are normalised before the first block, and the patch projection has no bias (CLIP).
        pos_resize: how positions are brought to another grid; libraries differ (see ``nn.position``).
        fit: pictures that patches do not divide: ``"error"``, ``"pad"``, ``"resize"``, or ``"cut"`` (So400m/14 at 384).
    """

    num_classes: int = 0
    activation: ActivationName = "gelu"
    embed_norm: bool = True
    pos_resize: ResizeName = "bicubic_antialias"
    fit: FitName = "error"

    def __post_init__(self) -> None:
        require_fitting_size(self.img_size, self.patch_size, self.fit)
        super().__post_init__()

    @property
    def grid(self) -> Grid:
        """The patch grid at ``img_size``."""
        return fitted_grid(self.img_size, self.patch_size, self.fit)


def make_block(
    dim: int,
    num_heads: int,
    mlp_ratio: float,
    norm: Norm,
    activation: Callable[[], nn.Module],
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Block:
    """A block of either tower."""
    mixer = Attention(dim, num_heads, attention_dropout=attention_dropout, dropout=dropout)
    return Block(dim, mixer, Mlp(dim, int(dim * mlp_ratio), activation, dropout), norm, drop_path=drop_path)


class ImageTower(Plain[ImageTowerConfig]):
    """Patches and positions, a norm where the config says so, an encoder, a pool, a classifier if wanted.

    Shapes:
        ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``, or pooled features without classes; H and W may
        differ from ``img_size``.
    """

    def __init__(self, config: ImageTowerConfig) -> None:
        dim = config.embed_dim
        norm = partial(nn.LayerNorm, eps=config.norm_eps)
        activation = ACTIVATIONS[config.activation]
        patches = PatchEmbed(config.patch_size, config.in_channels, dim, FITS[config.fit], bias=not config.embed_norm)

        def block(drop_path: float) -> nn.Module:
            rates = (config.dropout, config.attention_dropout, drop_path)
            return make_block(dim, config.num_heads, config.mlp_ratio, norm, activation, *rates)

        super().__init__(config, patches, block, norm)
        prefix = 1 if config.class_token else 0
        self.pos_embed = token(prefix + prod(config.grid), dim, std=dim**-0.5)
        if config.embed_norm:
            self.norm_pre = norm(dim)
        if config.pool == "attention":
            self.attn_pool = AttentionPool(dim, config.num_heads, config.mlp_ratio, config.norm_eps, activation)
        self._initialise()
        self.reset_classifier(config.num_classes)

    def _initialise(self) -> None:
        """CLIP scales normal weights with width and depth; SigLIP is initialised as the first ViT was."""
        if self.config.embed_norm:
            if self.cls_token is not None:
                nn.init.normal_(self.cls_token, std=self.config.embed_dim**-0.5)
            init_scaled(self.blocks, self.config.embed_dim, self.config.depth)
        else:
            init_jax(self)

    def place(self, values: Float[Tensor, "b n d"], grid: Grid) -> tuple[Float[Tensor, "b n d"], Tensor | None]:
        """Patches with the rows of the table, resized to their grid."""
        return add_positions(values, self.pos_embed, self.config.grid, grid, RESIZES[self.config.pos_resize])


CLIP_BASE = ImageTowerConfig(embed_dim=768, depth=12, num_heads=12, norm_eps=1e-5)
CLIP_LARGE = replace(CLIP_BASE, embed_dim=1024, depth=24, num_heads=16, patch_size=14)
SIGLIP_BASE = ImageTowerConfig(
    embed_dim=768,
    depth=12,
    num_heads=12,
    class_token=False,
    pool="attention",
    activation="gelu_tanh",
    embed_norm=False,
)
SIGLIP_LARGE = replace(SIGLIP_BASE, embed_dim=1024, depth=24, num_heads=16)
SIGLIP_SO400M = replace(SIGLIP_BASE, embed_dim=1152, depth=27, num_heads=16, mlp_ratio=3.7362, patch_size=14)


def _clip() -> dict[str, ImageTowerConfig]:
    """CLIP's, each with the exact GELU and, under timm's ``quickgelu``, with OpenAI's."""
    sizes = {
        ("base_patch32", 224): replace(CLIP_BASE, patch_size=32),
        ("base_patch16", 224): CLIP_BASE,
        ("large_patch14", 224): CLIP_LARGE,
        ("large_patch14", 336): replace(CLIP_LARGE, img_size=336),
    }
    table: dict[str, ImageTowerConfig] = {}
    for (size, pixels), config in sizes.items():
        table[f"vit_{size}_clip_{pixels}"] = config
        table[f"vit_{size}_clip_quickgelu_{pixels}"] = replace(config, activation="quick_gelu")
    return table


def _siglip() -> dict[str, ImageTowerConfig]:
    table = {f"vit_base_patch16_siglip_{n}": replace(SIGLIP_BASE, img_size=n) for n in (224, 256, 384, 512)}
    table |= {f"vit_large_patch16_siglip_{n}": replace(SIGLIP_LARGE, img_size=n) for n in (256, 384)}
    table["vit_so400m_patch14_siglip_224"] = SIGLIP_SO400M
    # 384 is not a multiple of 14: the authors leave the last six rows and columns out.
    table["vit_so400m_patch14_siglip_384"] = replace(SIGLIP_SO400M, img_size=384, fit="cut")
    return table


TOWER_MODELS: dict[str, ImageTowerConfig] = _clip() | _siglip()
