"""Masked autoencoders: an encoder that sees a part of the patches, and a light decoder that predicts the others.

What MAE (He et al. 2022) and VideoMAE (Tong et al. 2022) share. The encoder is a model of its own family and is what is
kept when training ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.contracts import Role, VitrailError
from vitrail.heads.pixels import PixelDecoder, pixels_of
from vitrail.models.model import Model, ModelConfig
from vitrail.models.plain import Plain, PlainConfig
from vitrail.nn.attention import Attention
from vitrail.nn.block import Block
from vitrail.nn.init import init_mae
from vitrail.nn.mlp import Mlp
from vitrail.nn.tokens import Grid, Tokens


@dataclass(frozen=True)
class AutoencoderConfig(ModelConfig, ABC):
    """The numbers of an encoder and of its decoder.

    Attributes:
        num_classes: 0: an autoencoder has no classifier, its encoder alone may get one.
        patch_size: pixels, one number or ``(height, width)``.
        embed_dim, depth, num_heads, mlp_ratio: of the encoder.
        norm_eps: epsilon of every LayerNorm.
        decoder_embed_dim, decoder_depth, decoder_num_heads, decoder_mlp_ratio: of the decoder.
        mask_ratio: share of the patches that training hides from the encoder.
    """

    num_classes: int = 0
    patch_size: int | tuple[int, int] = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    decoder_mlp_ratio: float = 4.0
    mask_ratio: float = 0.75

    def __post_init__(self) -> None:
        if self.num_classes:
            raise VitrailError("an autoencoder has no classes: leave num_classes at 0, or build its encoder alone")
        if self.decoder_embed_dim % self.decoder_num_heads:
            raise VitrailError(
                f"decoder_embed_dim {self.decoder_embed_dim} is not divisible by "
                f"decoder_num_heads {self.decoder_num_heads}"
            )
        _ = self.encoder  # Its numbers must fit together too.

    @property
    @abstractmethod
    def encoder(self) -> PlainConfig:
        """The encoder alone."""


AutoencoderT = TypeVar("AutoencoderT", bound=AutoencoderConfig)


class Autoencoder(Model[AutoencoderT]):
    """Pictures (or clips) and the places that may be seen, into the pixels of every patch.

    Args:
        config: the family's numbers.
        encoder: embeds, drops patches, encodes; it has no classifier. Its weights are left as they are.
        decoder: predicts pixels; it is initialised here.
        patch: pixels along each side of a patch: ``(height, width)``, with the frames before them for clips.
    """

    def __init__(self, config: AutoencoderT, encoder: Plain, decoder: PixelDecoder, patch: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.img_size, self.patch_size = encoder.img_size, encoder.patch_size
        self.in_channels, self.num_classes, self.taps = encoder.in_channels, 0, encoder.taps
        self.patch = patch
        self.encoder = encoder
        self.decoder = decoder
        init_mae(decoder)
        nn.init.trunc_normal_(decoder.mask_token, std=0.02)

    # ------------------------------------------------------------------ what a family says

    @abstractmethod
    def decoder_positions(self, grid: Grid) -> Float[Tensor, "1 m e"]:
        """Positions in the decoder of the prefix tokens and of every patch of a grid."""

    @abstractmethod
    def targets(self, images: Tensor, normalise: bool = True) -> Float[Tensor, "b n p"]:
        """What training asks :meth:`forward` to predict.

        Args:
            images: as :meth:`forward` takes them.
            normalise: every patch by its own mean and deviation, instead of the pixels as they are.
        """

    @abstractmethod
    def draw_keep(self, batch: int, grid: Grid, generator: torch.Generator | None = None) -> Int[Tensor, "b k"]:
        """A random choice of patches that the encoder sees, as the paper draws it at ``mask_ratio``.

        Args:
            batch: how many samples.
            grid: the patch grid.
            generator: makes the choice repeatable, and says on which device it is drawn.
        """

    # ------------------------------------------------------------------ what all of them do

    def forward(
        self, images: Tensor, keep: Int[Tensor, "b k"] | None = None, places: Int[Tensor, "b w"] | None = None
    ) -> Float[Tensor, "b n p"]:
        """Pixels of every patch of the grid, ``(B, N, pixels)``; see :func:`vitrail.heads.pixels.unpatchify`.

        Args:
            images: what the encoder takes.
            keep: the patches that the encoder sees (see :mod:`vitrail.nn.masking`); it never computes the others. All
                of them when None.
            places: the patches that pixels are wanted of, in this order; all of them when None.
        """
        tokens = self.encoder.encode(self.encoder.embed(images, keep=keep))
        return self.decoder(tokens, self.decoder_positions(tokens.grid), places)

    def intermediates(self, images: Tensor, depths: Sequence[int], norm: bool = True) -> list[Tokens]:
        """Tokens after chosen blocks of the encoder, which sees every patch."""
        return self.encoder.intermediates(images, depths, norm)

    def roles(self) -> dict[str, Role]:
        """The encoder's roles; the whole decoder stands behind its last block, where a head stands."""
        roles = {f"encoder.{name}": role for name, role in self.encoder.roles().items()}
        for name, parameter in self.named_parameters():
            if name not in roles:
                is_table = name.endswith(("mask_token", "pos_embed"))
                roles[name] = Role(self.taps + 1, decay=parameter.ndim > 1 and not is_table)
        return roles

    def example_inputs(self, batch: int = 1, img_size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """Noise pictures and a random choice of the patches that the encoder sees."""
        (images,) = self.encoder.example_inputs(batch, img_size)
        grid = tuple(side // step for side, step in zip(images.shape[2:], self.patch, strict=True))
        return images, self.draw_keep(batch, grid).to(images.device)


def make_decoder(
    config: AutoencoderConfig,
    patch: Sequence[int],
    qkv: Callable[[int, int], nn.Module] = nn.Linear,
    embed_bias: bool = True,
    norm_eps: float | None = None,
) -> PixelDecoder:
    """A decoder by its numbers.

    Args:
        config: of the autoencoder.
        patch: pixels along each side of a patch.
        qkv: as in :class:`vitrail.nn.Attention`.
        embed_bias: whether the projection to the decoder's width has one.
        norm_eps: of the norm behind the blocks, where it differs from the others.
    """
    dim = config.decoder_embed_dim
    norm = partial(nn.LayerNorm, eps=config.norm_eps)
    blocks = [
        Block(
            dim, Attention(dim, config.decoder_num_heads, qkv=qkv), Mlp(dim, int(dim * config.decoder_mlp_ratio)), norm
        )
        for _ in range(config.decoder_depth)
    ]
    last = nn.LayerNorm(dim, eps=config.norm_eps if norm_eps is None else norm_eps)
    embed = nn.Linear(config.embed_dim, dim, bias=embed_bias)
    return PixelDecoder(embed, blocks, last, pixels_of(patch, config.in_channels))
