"""A plain transformer: one width and one grid from the first block to the last.

Everything that such families share stands here once: learned tokens, the stack, the norm, the pool, the classifier.
A family says how its tokens are placed (:meth:`Plain.place`) and what its blocks may look at (:meth:`Plain.context`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitrail.contracts import Role, VitrailError
from vitrail.heads.pool import POOLS, PoolName, pooled_width, require_class_token
from vitrail.models.backbone import Backbone, copy_linear, fresh_linear
from vitrail.models.model import ModelConfig
from vitrail.nn.block import Norm
from vitrail.nn.context import NO_CONTEXT, Context
from vitrail.nn.embed import as_pair
from vitrail.nn.encoder import Encoder
from vitrail.nn.residual import drop_path_rates
from vitrail.nn.tokens import Grid, Tokens, take_patches


@dataclass(frozen=True)
class PlainConfig(ModelConfig):
    """The numbers that all plain transformers have.

    Attributes:
        patch_size: pixels, one number or ``(height, width)``.
        embed_dim, depth, num_heads: width of a token, number of blocks, heads per block.
        mlp_ratio: MLP width over ``embed_dim``.
        layer_scale: initial factor on the residual branches, None for none.
        class_token, registers, mask_token: which learned tokens there are.
        pool: what the classifier reads.
        pool_norm: the final norm stands behind the pool (``fc_norm``) instead of before it.
        norm_eps: epsilon of every LayerNorm.
        dropout, attention_dropout, drop_path: rates while training; ``drop_path`` is that of the last block.
        patch_drop: share of the patches that every picture loses while training (PatchDropout, Liu et al. 2023).
    """

    patch_size: int | tuple[int, int] = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    layer_scale: float | None = None
    class_token: bool = True
    registers: int = 0
    mask_token: bool = False
    pool: PoolName = "class"
    pool_norm: bool = False
    norm_eps: float = 1e-6
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    patch_drop: float = 0.0

    def __post_init__(self) -> None:
        if self.embed_dim % self.num_heads:
            raise VitrailError(f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}")
        if self.pool in ("class", "class_mean") and not self.class_token:
            raise VitrailError(f"pool={self.pool!r} needs class_token=True; without one use pool='mean'")
        if self.depth < 1 or self.num_classes < 0 or self.registers < 0:
            raise VitrailError(
                f"depth must be at least 1 and num_classes and registers not negative "
                f"(depth={self.depth}, num_classes={self.num_classes}, registers={self.registers})"
            )
        require_rates(vars(self))


RATES = ("dropout", "attention_dropout", "drop_path", "patch_drop")
"""What a family calls the shares that are left out while training."""


def require_rates(values: Mapping[str, Any]) -> None:
    """Refuse shares that leave nothing, or are none; a stack of one block would ignore such a ``drop_path``.

    Args:
        values: fields of a config by name, rates among them.

    Raises:
        VitrailError: naming the field.
    """
    for name in RATES:
        if not 0.0 <= values.get(name, 0.0) < 1.0:
            raise VitrailError(f"{name} must be at least 0 and below 1, not {values[name]}")


def require_every_patch(config: PlainConfig) -> None:
    """Refuse a model that leaves out patches where the masked ones among them are to be predicted.

    PatchDropout is for labels: BEiT, SimMIM and iBOT all put a mask token where a patch is hidden and read every place.

    Raises:
        VitrailError: with the rate.
    """
    if config.patch_drop:
        raise VitrailError(
            f"patch_drop={config.patch_drop} would leave out masked patches, which are to be predicted: "
            "build the model with patch_drop=0 (--model-options patch_drop=0)"
        )


PlainT = TypeVar("PlainT", bound=PlainConfig)


class Plain(Backbone[PlainT]):
    """Patches and learned tokens, a stack of blocks, a norm, a pool, a classifier.

    Args:
        config: the family's numbers.
        patch_embed: cuts pictures into tokens.
        make_block: a block from its rate of stochastic depth.
        norm: makes a norm of a given width.
    """

    cls_token: nn.Parameter | None
    dist_token: nn.Parameter | None
    reg_token: nn.Parameter | None
    mask_token: nn.Parameter | None

    def __init__(
        self, config: PlainT, patch_embed: nn.Module, make_block: Callable[[float], nn.Module], norm: Norm
    ) -> None:
        super().__init__()
        self.config = config
        self.img_size = as_pair(config.img_size)
        self.patch_size = as_pair(config.patch_size)
        self.in_channels = config.in_channels
        self.num_features = pooled_width(config.pool, config.embed_dim)
        self.taps = config.depth
        dim = config.embed_dim
        self.patch_embed = patch_embed
        self.cls_token = token(1, dim) if config.class_token else None
        self.dist_token = None
        self.reg_token = token(config.registers, dim) if config.registers else None
        self.mask_token = nn.Parameter(torch.zeros(1, dim)) if config.mask_token else None
        self.pos_drop = nn.Dropout(config.dropout)
        self.norm_pre: nn.Module = nn.Identity()
        self.blocks = Encoder([make_block(rate) for rate in drop_path_rates(config.drop_path, config.depth)])
        self.norm = nn.Identity() if config.pool_norm else norm(dim)
        self.attn_pool = POOLS[config.pool](dim, config.num_heads, config.mlp_ratio)
        self.fc_norm = norm(self.num_features) if config.pool_norm else nn.Identity()
        self.head: nn.Module = nn.Identity()
        self.head_dist: nn.Module | None = None

    # ------------------------------------------------------------------ what a family says

    @abstractmethod
    def place(self, values: Float[Tensor, "b n d"], grid: Grid) -> tuple[Float[Tensor, "b n d"], Tensor | None]:
        """Patches with their positions, and the positions of the prefix tokens ``(1, P, D)``, None for none."""

    def context(self, grid: Grid) -> Context:
        """Side inputs of the blocks for a grid."""
        return NO_CONTEXT

    # ------------------------------------------------------------------ pictures into tokens

    def embed(
        self,
        images: Tensor,
        mask: Bool[Tensor, "b n"] | None = None,
        keep: Int[Tensor, "b k"] | None = None,
    ) -> Tokens:
        """Patches with positions behind the learned tokens: what the first block sees.

        Args:
            images: ``(B, C, H, W)``.
            mask: True where a patch is replaced by the mask token (BEiT, iBOT), before positions are added.
            keep: which patches go on, in this order (MAE); the others are never computed further.

        Raises:
            VitrailError: a mask, but no mask token, or patches that ``patch_drop`` leaves out.
        """
        tokens = self.patch_embed(images)
        values = tokens.values
        if mask is not None:
            if self.training:
                require_every_patch(self.config)
            if self.mask_token is None:
                raise VitrailError("this model has no mask token: build it with mask_token=True")
            values = torch.where(mask.unsqueeze(-1), self.mask_token.to(values.dtype), values)
        values, positions = self.place(values, tokens.grid)
        if keep is None and self.training and self.config.patch_drop:
            keep = self._survivors(values)
        if keep is not None:
            values = take_patches(values, keep)
        tokens = Tokens(values, tokens.grid, keep=keep)
        prefix = self._prefix(positions, values.shape[0])
        if prefix is not None:
            tokens = tokens.prepend(prefix, self.config.registers)
        return tokens.with_values(self.norm_pre(self.pos_drop(tokens.values)))

    def _survivors(self, values: Float[Tensor, "b n d"]) -> Int[Tensor, "b k"]:
        """A random choice of patches for every picture, in their order."""
        batch, count, _ = values.shape
        chosen = max(1, round(count * (1.0 - self.config.patch_drop)))
        return torch.rand(batch, count, device=values.device).topk(chosen).indices.sort().values

    def _prefix(self, positions: Tensor | None, batch: int) -> Float[Tensor, "b p d"] | None:
        """Class and distillation token (with positions where they have any), then registers (never with any)."""
        placed: list[Tensor] = [token for token in (self.cls_token, self.dist_token) if token is not None]
        parts = [torch.cat(placed, dim=1)] if placed else []
        if positions is not None and positions.shape[1]:
            parts = [parts[0] + positions if placed else positions]
        if self.reg_token is not None:
            parts.append(self.reg_token)
        return torch.cat(parts, dim=1).expand(batch, -1, -1) if parts else None

    # ------------------------------------------------------------------ tokens into answers

    def features(self, images: Tensor) -> Tokens:
        """Tokens after the last block and the final norm."""
        return self.encode(self.embed(images))

    def leading(self, images: Tensor, count: int | None) -> Tokens:
        """As of every backbone; the last block works out no others."""
        if count is None:
            return self.features(images)
        tokens = require_class_token(self.embed(images), count)
        return self.finish(self.blocks.leading(tokens, count, self.context(tokens.grid)))

    def reads(self) -> int | None:
        """As many as the pool does."""
        return self.attn_pool.reads

    def encode(self, tokens: Tokens) -> Tokens:
        """Tokens of :meth:`embed` through all blocks and the final norm."""
        return self.finish(self.blocks(tokens, self.context(tokens.grid)))

    def finish(self, tokens: Tokens) -> Tokens:
        """Tokens of any block through the final norm."""
        return tokens.with_values(self.norm(tokens.values))

    def intermediates(self, images: Tensor, depths: Sequence[int], norm: bool = True) -> list[Tokens]:
        """Tokens after chosen blocks, through the final norm or as they are."""
        tokens = self.embed(images)
        taps = self.blocks.taps(tokens, depths, self.context(tokens.grid))
        return [self.finish(tap) for tap in taps] if norm else taps

    def pool(self, tokens: Tokens) -> Float[Tensor, "b f"]:
        """One vector per picture, ``(B, num_features)``."""
        return self.fc_norm(self.attn_pool(tokens))

    def classify(self, tokens: Tokens) -> Float[Tensor, "b k"]:
        """Logits."""
        return self.head(self.pool(tokens))

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head, initialised as the others were; 0 takes it away."""
        self.num_classes = num_classes
        self.config = replace(self.config, num_classes=num_classes)
        self.head = self.make_classifier(self.num_features)

    def make_classifier(self, features: int) -> nn.Module:
        """A head for ``num_classes``, of the model's type and on its device."""
        return fresh_linear(features, self.num_classes, next(self.blocks.parameters()))

    @torch.no_grad()
    def set_classifier(self, weight: Float[Tensor, "k f"], bias: Float[Tensor, " k"]) -> None:
        """Give the class head these values; a distillation head is left as it is."""
        copy_linear(self.head, weight, bias)

    def roles(self) -> dict[str, Role]:
        """Embedding 0, block ``i`` at ``i + 1``, the rest last; decay for matrices only, not tokens or positions."""
        last = len(self.blocks) + 1
        behind = ("norm", "fc_norm", "attn_pool", "head", "head_dist")
        roles = {}
        for name, parameter in self.named_parameters():
            part = name.split(".")
            depth = int(part[1]) + 1 if part[0] == "blocks" else last if part[0] in behind else 0
            is_table = part[-1].endswith(("_token", "_table")) or part[-1] in ("pos_embed", "latent")
            roles[name] = Role(depth, decay=parameter.ndim > 1 and not is_table)
        return roles


def token(count: int, dim: int, std: float = 1e-6) -> nn.Parameter:
    """Learned rows ``(1, count, dim)``; tokens start near zero, positions with deviation 0.02."""
    rows = nn.Parameter(torch.empty(1, count, dim))
    nn.init.trunc_normal_(rows, std=std)
    return rows
