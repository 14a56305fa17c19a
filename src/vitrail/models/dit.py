"""DiT: a transformer that denoises latents, told the timestep and the class (Peebles & Xie 2023).

A "picture" here is what the model sees: the latents of an autoencoder that makes every side eight times smaller, so
``img_size`` is 32 for pictures of 256 pixels and 64 for 512. The class table has one row more than there are classes:
the null class, which stands for "no label" and is what classifier-free guidance compares with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.contracts import Role, VitrailError
from vitrail.models.model import Model, ModelConfig
from vitrail.nn.attention import Attention
from vitrail.nn.block import ConditionedBlock, modulate
from vitrail.nn.context import Context
from vitrail.nn.embed import PatchEmbed, Size, as_pair, patch_grid
from vitrail.nn.encoder import Encoder
from vitrail.nn.init import init_mae
from vitrail.nn.mlp import Mlp
from vitrail.nn.position import sincos_2d
from vitrail.nn.tokens import Grid, Tokens


@dataclass(frozen=True)
class DiTConfig(ModelConfig):
    """Everything that tells one DiT from another; DiT-XL/2 at 256 pixels as it stands.

    Attributes:
        img_size: values on a side of the latents, not pixels.
        in_channels: of the latents.
        num_classes: classes that it can be told, the null class not counted; 0 for a model without labels.
        patch_size: values on a side of a patch, one number or ``(height, width)``.
        embed_dim, depth, num_heads: width of a token, number of blocks, heads per block.
        mlp_ratio: MLP width over ``embed_dim``.
        frequencies: width of the timestep's sinusoid.
        learn_sigma: whether the variance is predicted too, which doubles the channels that come out.
        label_dropout: share of the labels that become the null class while training.
        norm_eps: epsilon of every LayerNorm; none has weights.
    """

    img_size: int | tuple[int, int] = 32
    in_channels: int = 4
    patch_size: int | tuple[int, int] = 2
    embed_dim: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    frequencies: int = 256
    learn_sigma: bool = True
    label_dropout: float = 0.1
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        size, patch = as_pair(self.img_size), as_pair(self.patch_size)
        if any(s < p or s % p for s, p in zip(size, patch, strict=True)):
            near = "x".join(str(-(-s // p) * p) for s, p in zip(size, patch, strict=True))
            raise VitrailError(
                f"img_size {size[0]}x{size[1]} is not a multiple of patch_size {patch[0]}x{patch[1]}: use {near}"
            )
        if self.embed_dim % self.num_heads or self.embed_dim % 4 or self.frequencies % 2:
            raise VitrailError(
                f"embed_dim must be divisible by num_heads and by 4, and frequencies by 2 (embed_dim={self.embed_dim}, "
                f"num_heads={self.num_heads}, frequencies={self.frequencies})"
            )
        if self.depth < 1 or self.num_classes < 0 or not 0.0 <= self.label_dropout <= 1.0:
            raise VitrailError(
                f"depth must be at least 1, num_classes not negative and label_dropout between 0 and 1 "
                f"(depth={self.depth}, num_classes={self.num_classes}, label_dropout={self.label_dropout})"
            )

    @property
    def grid(self) -> Grid:
        """The patch grid at ``img_size``."""
        return patch_grid(as_pair(self.img_size), as_pair(self.patch_size))

    @property
    def out_channels(self) -> int:
        """Channels that come out: noise, or noise and variance."""
        return self.in_channels * (2 if self.learn_sigma else 1)


class TimestepEmbed(nn.Module):
    """A timestep as a vector: its cosines and sines, then two linear layers (DiT, appendix A).

    Args:
        frequencies: width of the sinusoid.
        embed_dim: width of the vector.
        longest: the longest wavelength over 2π.
    """

    def __init__(self, frequencies: int, embed_dim: int, longest: float = 10_000.0) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.longest = longest
        self.fc1 = nn.Linear(frequencies, embed_dim)
        self.fc2 = nn.Linear(embed_dim, embed_dim)

    def forward(self, timesteps: Int[Tensor, " b"] | Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Whole or fractional timesteps ``(B,)``. The angles are float32 whatever the weights are."""
        half = self.frequencies // 2
        falling = torch.arange(half, dtype=torch.float32, device=timesteps.device) * (-math.log(self.longest) / half)
        angles = timesteps[:, None].float() * falling.exp()
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.fc2(F.silu(self.fc1(waves.to(self.fc1.weight.dtype))))


class LabelEmbed(nn.Module):
    """A learned row per class and one, the last, for "no label".

    Args:
        num_classes: classes; the null class has this number.
        embed_dim: width of a row.
        dropout: share of the labels that become the null class while training (Ho & Salimans 2022, algorithm 1).
    """

    def __init__(self, num_classes: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.null = num_classes
        self.dropout = dropout
        self.table = nn.Embedding(num_classes + 1, embed_dim)

    def forward(self, labels: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Class numbers ``(B,)``, the null class among them."""
        if self.training and self.dropout:
            lost = torch.rand(labels.shape, device=labels.device) < self.dropout
            labels = torch.where(lost, self.null, labels)
        return self.table(labels)


class FinalLayer(nn.Module):
    """A modulated norm, then every token to the values of its patch (DiT, section 3.2, "Transformer decoder").

    Args:
        dim: width of a token and of the condition.
        out: values of a patch, all channels.
        eps: of the norm, which has no weights.
    """

    def __init__(self, dim: int, out: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 2 * dim)
        self.linear = nn.Linear(dim, out)

    def modulated(self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b d"]) -> Float[Tensor, "b n d"]:
        """What the linear layer reads."""
        shift, scale = self.modulation(F.silu(condition)).unsqueeze(1).chunk(2, dim=-1)
        return modulate(self.norm(x), shift, scale)

    def forward(self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b d"]) -> Float[Tensor, "b n out"]:
        """The values of every patch."""
        return self.linear(self.modulated(x, condition))


def _require_whole_patches(latents: Float[Tensor, "b c h w"], patch: Size) -> Float[Tensor, "b c h w"]:
    """Latents cannot be padded or resized as pictures can: what comes out must lie where it went in."""
    for axis, size, step in (("height", latents.shape[-2], patch[0]), ("width", latents.shape[-1], patch[1])):
        if size % step or size == 0:
            near = " or ".join(str(s) for s in (size // step * step, -(-size // step) * step) if s) or str(step)
            raise VitrailError(f"latent {axis} {size} is not a multiple of the patch size {step}: use {near}")
    return latents


class DiffusionTransformer(Model[DiTConfig]):
    """Patches of noisy latents, blocks conditioned on timestep and class (adaLN-zero), and patches of noise again.

    Args:
        config: all numbers; DiT-XL/2 at 256 when left out.

    Shapes:
        Latents ``(B, C, H, W)``, timesteps ``(B,)`` and labels ``(B,)`` to ``(B, 2·C, H, W)``: the noise, then the
        variance (``(B, C, H, W)`` without ``learn_sigma``). H and W may differ from ``img_size``: the sine-cosine
        positions are then computed for the new grid.
    """

    def __init__(self, config: DiTConfig | None = None) -> None:
        super().__init__()
        config = config or DiTConfig()
        self.config = config
        self.img_size = as_pair(config.img_size)
        self.patch_size = as_pair(config.patch_size)
        self.in_channels = config.in_channels
        self.num_classes = config.num_classes
        self.taps = config.depth
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config.patch_size, config.in_channels, dim, _require_whole_patches)
        self.pos_embed = nn.Parameter(sincos_2d(dim, config.grid), requires_grad=False)
        self.time_embed = TimestepEmbed(config.frequencies, dim)
        self.label_embed = LabelEmbed(config.num_classes, dim, config.label_dropout)
        norm = partial(nn.LayerNorm, eps=config.norm_eps, elementwise_affine=False)
        gelu = partial(nn.GELU, approximate="tanh")
        hidden = round(dim * config.mlp_ratio)
        blocks = [
            ConditionedBlock(dim, Attention(dim, config.num_heads), Mlp(dim, hidden, gelu), norm)
            for _ in range(config.depth)
        ]
        self.blocks = Encoder(blocks)
        values = self.patch_size[0] * self.patch_size[1] * config.out_channels
        self.final = FinalLayer(dim, values, config.norm_eps)
        self._initialise(blocks)

    def _initialise(self, blocks: Sequence[ConditionedBlock]) -> None:
        """As published (section 3.2 and the authors' code): Xavier-uniform, and zeros wherever a branch ends."""
        init_mae(self)
        if self.patch_embed.proj.bias is not None:
            nn.init.zeros_(self.patch_embed.proj.bias)
        for weight in (self.time_embed.fc1.weight, self.time_embed.fc2.weight, self.label_embed.table.weight):
            nn.init.normal_(weight, std=0.02)
        for block in blocks:
            block.reset_modulation()
        for layer in (self.final.modulation, self.final.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    # ------------------------------------------------------------------ forward

    def forward(
        self,
        latents: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"] | Float[Tensor, " b"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c2 h w"]:
        """The noise in latents, and behind it what the variance is made of.

        Args:
            latents: with noise.
            timesteps: how noisy they are, on the scale of the training's steps (0 … 999).
            labels: class numbers; the number of classes itself, or None, for "no label".
        """
        condition = self.condition(timesteps, self._labels(labels, latents))
        tokens = self.blocks(self.embed(latents), Context(condition=condition))
        return self.unpatchify(self.final(tokens.values, condition), tokens.grid)

    def _labels(self, labels: Int[Tensor, " b"] | None, latents: Tensor) -> Int[Tensor, " b"]:
        if labels is not None:
            return labels
        return torch.full((len(latents),), self.label_embed.null, device=latents.device)

    def condition(
        self, timesteps: Int[Tensor, " b"] | Float[Tensor, " b"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, "b d"]:
        """What modulates every block: timestep and class, added."""
        return self.time_embed(timesteps) + self.label_embed(labels)

    def embed(self, latents: Float[Tensor, "b c h w"]) -> Tokens:
        """Patches with their positions: what the first block sees."""
        tokens = self.patch_embed(latents)
        table = self.pos_embed
        if tokens.grid != self.config.grid:
            table = sincos_2d(self.config.embed_dim, tokens.grid).to(table.device, table.dtype)
        return tokens.with_values(tokens.values + table)

    def unpatchify(self, patches: Float[Tensor, "b n v"], grid: Grid) -> Float[Tensor, "b c h w"]:
        """The values of every patch laid out; within a patch they go by row, column, channel."""
        laid_out = patches.unflatten(2, (*self.patch_size, self.config.out_channels)).unflatten(1, grid)
        return laid_out.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    # ------------------------------------------------------------------ what every model of the house is asked for

    def intermediates(
        self,
        images: Float[Tensor, "b c h w"],
        depths: Sequence[int],
        norm: bool = True,
        timesteps: Int[Tensor, " b"] | Float[Tensor, " b"] | None = None,
        labels: Int[Tensor, " b"] | None = None,
    ) -> list[Tokens]:
        """Tokens after chosen blocks.

        Args:
            images: latents, as :meth:`forward` takes them.
            depths: block numbers; negative ones count from the end.
            norm: through the final layer's modulated norm, or as they are.
            timesteps: how noisy the latents are; 0, that is clean, when None.
            labels: class numbers; "no label" when None. Without timesteps and labels this is a feature call like any
                other family's, and so is :meth:`feature_maps`.
        """
        if timesteps is None:
            timesteps = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        condition = self.condition(timesteps, self._labels(labels, images))
        taps = self.blocks.taps(self.embed(images), depths, Context(condition=condition))
        return [tap.with_values(self.final.modulated(tap.values, condition)) for tap in taps] if norm else taps

    def example_inputs(self, batch: int = 1, img_size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """Latents of noise, timesteps and labels for :meth:`forward`."""
        (latents,) = super().example_inputs(batch, img_size)
        numbers = torch.arange(batch, device=latents.device)
        return latents, numbers % 1000, numbers % (self.num_classes + 1)

    def roles(self) -> dict[str, Role]:
        """Embeddings 0, block ``i`` at ``i + 1``, the final layer last; decay for matrices, not for tables."""
        roles = {}
        for name, parameter in self.named_parameters():
            part = name.split(".")
            depth = int(part[1]) + 1 if part[0] == "blocks" else len(self.blocks) + 1 if part[0] == "final" else 0
            roles[name] = Role(depth, decay=parameter.ndim > 1 and part[0] not in ("pos_embed", "label_embed"))
        return roles


def _sizes() -> dict[str, DiTConfig]:
    """The sizes of the paper (table 1), for pictures of 256 and 512 pixels behind an autoencoder of factor 8."""
    sizes = {
        "small": DiTConfig(embed_dim=384, depth=12, num_heads=6),
        "base": DiTConfig(embed_dim=768, depth=12, num_heads=12),
        "large": DiTConfig(embed_dim=1024, depth=24, num_heads=16),
        "xlarge": DiTConfig(embed_dim=1152, depth=28, num_heads=16),
    }
    return {
        f"dit_{size}_patch{patch}_{pixels}": replace(config, patch_size=patch, img_size=pixels // 8)
        for size, config in sizes.items()
        for patch in (2, 4, 8)
        for pixels in (256, 512)
    }


DIT_MODELS: dict[str, DiTConfig] = _sizes()
