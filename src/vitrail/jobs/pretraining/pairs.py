"""Pictures with captions in ``vitrail pretrain``: a pair of towers, its tokenizer, its data."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from vitrail.contracts import Method, VitrailError
from vitrail.data import Preprocess, Splits, open_captions
from vitrail.explanations.strips import Strip
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.pretraining.pictures import show_features
from vitrail.jobs.pretraining.start import Start
from vitrail.jobs.zero_shot import read_tokenizer, tokenizer_for
from vitrail.methods import CLIP, CLIPOptions
from vitrail.models import DualEncoder


def build_clip(start: Start, options: CLIPOptions) -> CLIP:
    """Both towers."""
    return CLIP(dual_encoder(start), options)


def dual_encoder(start: Start) -> DualEncoder:
    """The start's model, for methods that need a pair of towers.

    Raises:
        VitrailError: it is another.
    """
    if not isinstance(start.model, DualEncoder):
        raise VitrailError(f"clip trains a pair of towers (clip_…, siglip_…), not a {type(start.model).__name__}")
    return start.model


def pair_files(start: Start, options: CLIPOptions) -> Mapping[str, str]:
    """The tokenizer that was asked for, else the model's own."""
    return start.files if options.tokenizer is None else read_tokenizer(options.tokenizer)


def open_pairs(config: PretrainConfig, start: Start, options: CLIPOptions) -> Splits:
    """Pictures with captions as the model's token numbers."""
    numbers = dual_encoder(start).config
    files = pair_files(start, options)
    if not files:
        raise VitrailError(
            f"{config.model} brings no tokenizer along: name one with --method-options tokenizer=FILE (tokenizer.json; "
            "the model's vocab_size, end_token and pad_token must fit it), or start from weights that have one"
        )
    return open_captions(
        config.data, tokenizer_for(files, numbers), val_fraction=config.val_fraction, seed=config.split_seed
    )


def image_tower(kept: nn.Module) -> nn.Module:
    """The half of a pair that looks at pictures."""
    return kept.image if isinstance(kept, DualEncoder) else kept


def show_tower(method: Method, kept: nn.Module, images: Tensor, preprocess: Preprocess) -> list[Strip]:
    """Attention and features of the half of a pair that looks at pictures."""
    return show_features(method, image_tower(kept), images, preprocess)
