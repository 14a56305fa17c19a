"""Clips in ``vitrail pretrain``: an autoencoder of clips, its views, its data."""

from __future__ import annotations

from vitrail.contracts import VitrailError
from vitrail.data import ClipTransform, Splits, open_clips
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.pretraining.start import Start
from vitrail.methods import TubeView, VideoMAE, VideoMAEOptions
from vitrail.models import MaskedVideoAutoencoder


def build_videomae(start: Start, options: VideoMAEOptions) -> VideoMAE:
    """The autoencoder, with its targets in the pixels' own scale."""
    return VideoMAE(video_autoencoder(start), start.preprocess.mean, start.preprocess.std, options.normalise)


def tube_view(start: Start, options: VideoMAEOptions) -> TubeView:
    """One augmented view and the tubes of it that are seen."""
    grid = video_autoencoder(start).encoder.config.grid
    return TubeView(ClipTransform(start.preprocess, start.augment), grid, options.mask_ratio)


def video_autoencoder(start: Start) -> MaskedVideoAutoencoder:
    """The start's model, for methods that need an autoencoder of clips.

    Raises:
        VitrailError: it is another.
    """
    if not isinstance(start.model, MaskedVideoAutoencoder):
        kind = type(start.model).__name__
        raise VitrailError(f"videomae trains an autoencoder of clips (pretrain_videomae_…), not a {kind}")
    return start.model


def open_video(config: PretrainConfig, start: Start, options: VideoMAEOptions) -> Splits:
    """Clips of as many frames as the model takes."""
    frames = video_autoencoder(start).config.frames
    channels = start.preprocess.channels
    return open_clips(config.data, frames, options.stride, channels, config.val_fraction, config.split_seed)


def plain_clip(start: Start) -> ClipTransform:
    """Clips as evaluation takes them."""
    return ClipTransform(start.preprocess, None)
