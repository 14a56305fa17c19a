"""MAE: a Vision Transformer that sees a quarter of a picture's patches, and a decoder that predicts the rest.

Source: Masked Autoencoders Are Scalable Vision Learners (He et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.heads.pixels import normalise_patches, patchify
from vitrail.models.autoencoder import Autoencoder, AutoencoderConfig, make_decoder
from vitrail.models.model import shared_numbers
from vitrail.models.vit import VisionTransformer, ViTConfig
from vitrail.nn.embed import as_pair
from vitrail.nn.masking import random_keep
from vitrail.nn.position import RESIZES, ResizeName, resize_positions, sincos_2d
from vitrail.nn.tokens import Grid


@dataclass(frozen=True)
class MAEConfig(AutoencoderConfig):
    """The numbers of an MAE.

    Attributes:
        pos_resize: how both position tables are brought to another grid.
    """

    pos_resize: ResizeName = "bicubic"

    @property
    def encoder(self) -> ViTConfig:
        """The encoder alone."""
        return ViTConfig(**shared_numbers(self, ViTConfig), positions="sincos", init="mae")


class MaskedAutoencoder(Autoencoder[MAEConfig]):
    """Pictures ``(B, C, H, W)`` and the patches that may be seen, into the pixels of all patches.

    Args:
        config: all numbers; ViT-Base/16 at 224 with the published decoder when left out.
        encoder: one of the config's size that exists already, whatever its positions, tokens or weights are; a fresh
            one as the paper has it when left out.

    Attributes:
        encoder: the :class:`~vitrail.models.VisionTransformer` that is kept when training ends.
    """

    def __init__(self, config: MAEConfig | None = None, encoder: VisionTransformer | None = None) -> None:
        config = config or MAEConfig()
        encoder = encoder or fresh_encoder(config)
        patch = as_pair(config.patch_size)
        super().__init__(config, encoder, make_decoder(config, patch), patch)
        self.grid = encoder.config.grid
        table = sincos_2d(config.decoder_embed_dim, self.grid, encoder.config.prefix)
        self.decoder_pos_embed = nn.Parameter(table, requires_grad=False)

    def decoder_positions(self, grid: Grid) -> Float[Tensor, "1 m e"]:
        """The decoder's table, resized to a grid as the encoder's is."""
        return resize_positions(self.decoder_pos_embed, self.grid, grid, RESIZES[self.config.pos_resize])

    def targets(self, images: Float[Tensor, "b c h w"], normalise: bool = True) -> Float[Tensor, "b n p"]:
        """The pixels of every patch, normalised over the patch with its bands (section 4.1)."""
        patches = patchify(images, self.patch)
        return normalise_patches(patches) if normalise else patches

    def draw_keep(self, batch: int, grid: Grid, generator: torch.Generator | None = None) -> Int[Tensor, "b k"]:
        """Patches drawn for every picture by itself."""
        return random_keep(batch, grid, self.config.mask_ratio, generator)


def fresh_encoder(config: MAEConfig) -> VisionTransformer:
    """The encoder of an MAE with its initial weights."""
    encoder = VisionTransformer(config.encoder)
    if encoder.cls_token is not None:
        nn.init.trunc_normal_(encoder.cls_token, std=0.02)
    return encoder


def around(encoder: VisionTransformer, decoder: MAEConfig) -> MaskedAutoencoder:
    """A masked autoencoder whose encoder exists already, with a fresh decoder.

    Args:
        encoder: without a classifier.
        decoder: its ``decoder_…`` numbers and ``mask_ratio`` are taken, the others follow from the encoder.
    """
    return MaskedAutoencoder(replace(decoder, **shared_numbers(encoder.config, MAEConfig)), encoder)


MAE_MODELS: dict[str, MAEConfig] = {
    "mae_vit_base_patch16_224": MAEConfig(embed_dim=768, depth=12, num_heads=12),
    "mae_vit_large_patch16_224": MAEConfig(embed_dim=1024, depth=24, num_heads=16),
    "mae_vit_huge_patch14_224": MAEConfig(patch_size=14, embed_dim=1280, depth=32, num_heads=16),
}
