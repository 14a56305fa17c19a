"""Pictures with hidden patches in ``vitrail pretrain``: MAE and SimMIM, and their views."""

from __future__ import annotations

from vitrail.data import TrainTransform
from vitrail.jobs.pretraining.start import Start, patch_grid, vision_transformer
from vitrail.methods.mae import MAE, MAEOptions, MaskedView
from vitrail.methods.simmim import SimMIM, SimMIMOptions, SquaresView
from vitrail.models import MAEConfig, MaskedAutoencoder
from vitrail.models.mae import around


def build_mae(start: Start, options: MAEOptions) -> MAE:
    """MAE around a ViT with a fresh decoder, or with the decoder that an autoencoder brings along."""
    if isinstance(start.model, MaskedAutoencoder):
        return MAE(start.model, options.normalise)
    decoder = MAEConfig(
        decoder_embed_dim=options.decoder_embed_dim,
        decoder_depth=options.decoder_depth,
        decoder_num_heads=options.decoder_num_heads,
        mask_ratio=options.mask_ratio,
    )
    return MAE(around(vision_transformer(start, "mae"), decoder), options.normalise)


def mae_view(start: Start, options: MAEOptions) -> MaskedView:
    """One augmented view and the patches of it that are seen."""
    return MaskedView(TrainTransform(start.preprocess, start.augment), patch_grid(start), options.mask_ratio)


def build_simmim(start: Start, options: SimMIMOptions) -> SimMIM:
    """SimMIM on a ViT that has a mask token."""
    return SimMIM(vision_transformer(start, "simmim"))


def simmim_view(start: Start, options: SimMIMOptions) -> SquaresView:
    """One augmented view and the squares of it that are hidden."""
    view = TrainTransform(start.preprocess, start.augment)
    return SquaresView(view, patch_grid(start), start.model.patch_size, options)
