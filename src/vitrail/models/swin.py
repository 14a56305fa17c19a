"""Swin: a hierarchical transformer whose attention stays inside windows, so that its cost grows with the patches.

Source: Liu et al. 2021, section 3. Four stages halve the grid and double the width; every second block moves its
windows by half their side. Parameter names are timm's, but for ``attn.mixer`` (what stands in a window), its
``position_bias`` and the classifier ``head``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import Role, VitrailError
from vitrail.heads.pool import MeanPool
from vitrail.models.backbone import Backbone, copy_linear, fresh_linear
from vitrail.models.model import ModelConfig
from vitrail.nn.attention import Attention
from vitrail.nn.block import Block, Norm
from vitrail.nn.context import NO_CONTEXT, Context
from vitrail.nn.embed import FITS, FitName, PatchEmbed, as_pair, fitted_grid, require_fitting_size
from vitrail.nn.encoder import Encoder
from vitrail.nn.init import init_trunc_normal
from vitrail.nn.merging import PatchMerging
from vitrail.nn.mlp import Mlp
from vitrail.nn.relative import BIAS_RESIZES, BiasResizeName, RelativePositionBias
from vitrail.nn.residual import drop_path_rates
from vitrail.nn.tokens import Grid, Tokens
from vitrail.nn.window import WindowMixer


@dataclass(frozen=True)
class SwinConfig(ModelConfig):
    """The numbers of a Swin.

    Attributes:
        patch_size: pixels, one number or ``(height, width)``.
        embed_dim: width of a token in the first stage; every further stage doubles it.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        window_size: patches along a side of a window, one number or one for each stage. A window is never larger than
            its stage's grid at ``img_size``.
        mlp_ratio: MLP width over that of a token.
        qkv_bias: bias of the joint projection.
        bias_resize: how the table of distances is brought to another window; checkpoints differ (see ``nn.relative``).
        norm_eps: epsilon of every LayerNorm.
        dropout, attention_dropout, drop_path: rates while training; ``drop_path`` is that of the last block.
        fit: pictures that patches do not divide: ``"error"``, ``"pad"`` or ``"resize"``.
    """

    patch_size: int | tuple[int, int] = 4
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int | tuple[int, ...] = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    bias_resize: BiasResizeName = "bicubic"
    norm_eps: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    fit: FitName = "error"

    def __post_init__(self) -> None:
        require_fitting_size(self.img_size, self.patch_size, self.fit)
        stages = len(self.depths)
        given = self.window_size if isinstance(self.window_size, tuple) else (self.window_size,) * stages
        if not stages or len(self.num_heads) != stages or len(given) != stages:
            raise VitrailError(
                f"depths {self.depths}, num_heads {self.num_heads} and window_size {self.window_size} must have one "
                "number for each stage (window_size may be one number for all)"
            )
        if min(*self.depths, *given) < 1 or self.num_classes < 0:
            raise VitrailError(
                f"depths and window_size must be at least 1 and num_classes not negative (depths={self.depths}, "
                f"window_size={self.window_size}, num_classes={self.num_classes})"
            )
        for width, heads in zip(self.widths, self.num_heads, strict=True):
            if heads < 1 or width % heads:
                raise VitrailError(f"a stage of width {width} cannot have {heads} heads: they must divide it")

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of a token in each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Grid of each stage at ``img_size``."""
        grid = fitted_grid(self.img_size, self.patch_size, self.fit)
        return tuple(tuple(-(-size // 2**stage) for size in grid) for stage in range(len(self.depths)))

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of a window in each stage."""
        stages = len(self.depths)
        given = self.window_size if isinstance(self.window_size, tuple) else (self.window_size,) * stages
        return tuple((min(side, grid[0]), min(side, grid[1])) for side, grid in zip(given, self.grids, strict=True))


class SwinStage(nn.Module):
    """Blocks of one width on one grid, behind a merging of patches in all stages but the first.

    Args:
        config: of the model.
        stage: which one, from 0.
        drop_path: rates of stochastic depth of its blocks.
        norm: makes a norm of a given width.
    """

    def __init__(self, config: SwinConfig, stage: int, drop_path: Sequence[float], norm: Norm) -> None:
        super().__init__()
        self.downsample = PatchMerging(config.widths[stage - 1], norm) if stage else nn.Identity()
        self.blocks = Encoder([_make_block(config, stage, i % 2 == 1, rate, norm) for i, rate in enumerate(drop_path)])

    def forward(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Tokens:
        """Tokens on this stage's grid."""
        return self.blocks(self.downsample(tokens), context)


def _make_block(config: SwinConfig, stage: int, shifted: bool, drop_path: float, norm: Norm) -> nn.Module:
    dim, heads, window = config.widths[stage], config.num_heads[stage], config.windows[stage]
    inner = Attention(
        dim,
        heads,
        qkv=partial(nn.Linear, bias=config.qkv_bias),
        position_bias=RelativePositionBias(window, heads, resize=BIAS_RESIZES[config.bias_resize], std=0.02),
        attention_dropout=config.attention_dropout,
        dropout=config.dropout,
    )
    shift = (window[0] // 2, window[1] // 2) if shifted else (0, 0)
    mlp = Mlp(dim, int(dim * config.mlp_ratio), dropout=config.dropout)
    return Block(dim, WindowMixer(inner, window, shift), mlp, norm, drop_path=drop_path)


class Swin(Backbone[SwinConfig]):
    """Patches, stages of windowed blocks, a norm, the mean, a classifier.

    Its depths are the stages: ``intermediates`` and ``feature_maps`` give one grid for each, the norm fits the last.

    Args:
        config: all numbers; Swin-T at 224 when left out.

    Shapes:
        ``(B, in_channels, H, W)`` to logits ``(B, num_classes)``; H and W may differ from ``img_size``: a grid that
        windows or mergings do not divide is filled up with zeros on the way.
    """

    def __init__(self, config: SwinConfig | None = None) -> None:
        super().__init__()
        config = config or SwinConfig()
        norm = partial(nn.LayerNorm, eps=config.norm_eps)
        self.config = config
        self.img_size = as_pair(config.img_size)
        self.patch_size = as_pair(config.patch_size)
        self.in_channels = config.in_channels
        self.num_features = config.widths[-1]
        self.taps = len(config.depths)
        self.patch_embed = PatchEmbed(config.patch_size, config.in_channels, config.embed_dim, FITS[config.fit])
        self.patch_norm = norm(config.embed_dim)
        self.pos_drop = nn.Dropout(config.dropout)
        rates = iter(drop_path_rates(config.drop_path, sum(config.depths)))
        stages = [[next(rates) for _ in range(depth)] for depth in config.depths]
        self.layers = Encoder([SwinStage(config, i, stage, norm) for i, stage in enumerate(stages)])
        self.norm = norm(self.num_features)
        self.mean_pool = MeanPool()
        self.head: nn.Module = nn.Identity()
        init_trunc_normal(self)
        self.reset_classifier(config.num_classes)

    def embed(self, images: Tensor) -> Tokens:
        """Patches as the first block sees them."""
        tokens = self.patch_embed(images)
        return tokens.with_values(self.pos_drop(self.patch_norm(tokens.values)))

    def features(self, images: Tensor) -> Tokens:
        """Tokens after the last stage and the final norm."""
        return self.finish(self.layers(self.embed(images)))

    def finish(self, tokens: Tokens) -> Tokens:
        """Tokens of the last stage through the final norm; those of other stages as they are."""
        fits = tokens.values.shape[-1] == self.num_features
        return tokens.with_values(self.norm(tokens.values)) if fits else tokens

    def intermediates(self, images: Tensor, depths: Sequence[int], norm: bool = True) -> list[Tokens]:
        """Tokens after chosen stages, each on its own grid; the final norm fits the last stage only."""
        taps = self.layers.taps(self.embed(images), depths)
        return [self.finish(tap) for tap in taps] if norm else taps

    def pool(self, tokens: Tokens) -> Float[Tensor, "b f"]:
        """The mean of the patches, ``(B, num_features)``."""
        return self.mean_pool(tokens)

    def classify(self, tokens: Tokens) -> Float[Tensor, "b k"]:
        """Logits."""
        return self.head(self.pool(tokens))

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head; 0 takes it away."""
        self.num_classes = num_classes
        self.config = replace(self.config, num_classes=num_classes)
        self.head = fresh_linear(self.num_features, num_classes, self.norm.weight)

    @torch.no_grad()
    def set_classifier(self, weight: Float[Tensor, "k f"], bias: Float[Tensor, " k"]) -> None:
        """Give the head these values."""
        copy_linear(self.head, weight, bias)

    def roles(self) -> dict[str, Role]:
        """Embedding 0, blocks counted through all stages, a merging with the block before it, norm and head last."""
        before = [sum(self.config.depths[:stage]) for stage in range(self.taps + 1)]
        roles = {}
        for name, parameter in self.named_parameters():
            part = name.split(".")
            depth = 0 if part[0].startswith("patch_") else before[-1] + 1
            if part[0] == "layers":
                depth = before[int(part[1])] + (int(part[3]) + 1 if part[2] == "blocks" else 0)
            roles[name] = Role(depth, decay=parameter.ndim > 1 and not part[-1].endswith("_table"))
        return roles


def _sizes() -> dict[str, SwinConfig]:
    """The published sizes by timm's names."""
    sizes = {
        "tiny": SwinConfig(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        "small": SwinConfig(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
        "base": SwinConfig(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
        "large": SwinConfig(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
    }
    table = {f"swin_{size}_patch4_window7_224": config for size, config in sizes.items()}
    for size, config in sizes.items():
        table[f"swin_{size}_patch4_window12_384"] = replace(config, img_size=384, window_size=12)
    return table


SWIN_MODELS: dict[str, SwinConfig] = _sizes()
