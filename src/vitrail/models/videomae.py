"""VideoMAE: a video transformer that sees a tenth of a clip's tubelets, and a decoder that predicts the rest.

Source: VideoMAE (Tong et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.heads.pixels import normalise_bands, patchify
from vitrail.models.autoencoder import Autoencoder, AutoencoderConfig, make_decoder
from vitrail.models.model import shared_numbers
from vitrail.models.video import VideoConfig, VideoTransformer
from vitrail.nn.init import init_mae
from vitrail.nn.linear import KeylessLinear
from vitrail.nn.masking import tube_keep
from vitrail.nn.position import add_fixed_positions
from vitrail.nn.tokens import Grid


@dataclass(frozen=True)
class VideoMAEConfig(AutoencoderConfig):
    """The numbers of a VideoMAE.

    Attributes:
        frames: of a clip.
        tubelet_frames: frames that a token spans.
        decoder_norm_eps: epsilon of the decoder's last norm, which Transformers' files set apart.
    """

    decoder_embed_dim: int = 384
    decoder_depth: int = 4
    decoder_num_heads: int = 6
    mask_ratio: float = 0.9
    frames: int = 16
    tubelet_frames: int = 2
    decoder_norm_eps: float = 1e-6

    @property
    def encoder(self) -> VideoConfig:
        """The encoder alone: its norm stands before the pool."""
        return VideoConfig(**shared_numbers(self, VideoConfig), pool_norm=False)


class MaskedVideoAutoencoder(Autoencoder[VideoMAEConfig]):
    """Clips ``(B, C, T, H, W)`` and the tubelets that may be seen, into the pixels of all tubelets.

    Args:
        config: all numbers; ViT-Base on 16 frames of 224 × 224 with the published decoder when left out.

    Attributes:
        encoder: the :class:`~vitrail.models.VideoTransformer` that is kept when training ends.
    """

    decoder_pos_embed: Tensor

    def __init__(self, config: VideoMAEConfig | None = None) -> None:
        config = config or VideoMAEConfig()
        encoder = VideoTransformer(config.encoder)
        init_mae(encoder)
        patch = encoder.config.tubelet
        decoder = make_decoder(config, patch, KeylessLinear, embed_bias=False, norm_eps=config.decoder_norm_eps)
        super().__init__(config, encoder, decoder, patch)
        add_fixed_positions(self, "decoder_pos_embed", config.decoder_embed_dim, prod(encoder.config.grid))

    def decoder_positions(self, grid: Grid) -> Float[Tensor, "1 m e"]:
        """The rows of the tubelets' numbers; the encoder has refused every other grid."""
        return self.decoder_pos_embed

    def targets(self, images: Float[Tensor, "b c t h w"], normalise: bool = True) -> Float[Tensor, "b n p"]:
        """The pixels of every tubelet, each band normalised by itself over the tubelet.

        The authors take the pixels in [0, 1]: without normalising, give the clip before its mean was taken off.
        """
        patches = patchify(images, self.patch)
        return normalise_bands(patches, self.in_channels) if normalise else patches

    def draw_keep(self, batch: int, grid: Grid, generator: torch.Generator | None = None) -> Int[Tensor, "b k"]:
        """Tubes: the same places in all frames of a clip."""
        return tube_keep(batch, grid, self.config.mask_ratio, generator)


VIDEOMAE_MODELS: dict[str, VideoMAEConfig] = {
    "pretrain_videomae_small_patch16_224": VideoMAEConfig(
        embed_dim=384, depth=12, num_heads=6, decoder_embed_dim=192, decoder_depth=4, decoder_num_heads=3
    ),
    "pretrain_videomae_base_patch16_224": VideoMAEConfig(
        embed_dim=768, depth=12, num_heads=12, decoder_embed_dim=384, decoder_depth=4, decoder_num_heads=6
    ),
    "pretrain_videomae_large_patch16_224": VideoMAEConfig(
        embed_dim=1024, depth=24, num_heads=16, decoder_embed_dim=512, decoder_depth=12, decoder_num_heads=8
    ),
    "pretrain_videomae_huge_patch16_224": VideoMAEConfig(
        embed_dim=1280, depth=32, num_heads=16, decoder_embed_dim=640, decoder_depth=12, decoder_num_heads=8
    ),
}
