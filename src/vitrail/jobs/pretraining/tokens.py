"""Discrete tokens in ``vitrail pretrain``: the tokenizer, BEiT on its tokens, and the views of both."""

from __future__ import annotations

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess, TrainTransform
from vitrail.jobs.models import open_model
from vitrail.jobs.pretraining.start import Start, patch_grid
from vitrail.methods.beit import BEiT, BEiTOptions, TokenView, require_same_grid
from vitrail.methods.tokenizer import Tokenizer, TokenizerOptions
from vitrail.models import DiscreteVAE, Plain


def build_tokenizer(start: Start, options: TokenizerOptions) -> Tokenizer:
    """The discrete autoencoder that the start's model is.

    Raises:
        VitrailError: it is another model.
    """
    if not isinstance(start.model, DiscreteVAE):
        raise VitrailError(f"tokenizer trains a discrete autoencoder (dvae_…), not a {type(start.model).__name__}")
    return Tokenizer(start.model, options, start.preprocess.mean, start.preprocess.std)


def build_beit(start: Start, options: BEiTOptions) -> BEiT:
    """A transformer with a mask token before a trained tokenizer."""
    if not isinstance(start.model, Plain):
        raise VitrailError(f"beit trains a plain transformer (beit_…, vit_…), not a {type(start.model).__name__}")
    return BEiT(start.model, open_tokenizer(start, options)[0])


def beit_view(start: Start, options: BEiTOptions) -> TokenView:
    """One augmented view, at both models' sizes, and a mask of blocks."""
    tokenizer, preprocess = open_tokenizer(start, options)
    height, width = preprocess.size
    stride = tokenizer.config.stride
    grid = patch_grid(start)
    require_same_grid(grid, (height // stride, width // stride))
    same = preprocess == start.preprocess
    tokenized = None if same else TrainTransform(preprocess, start.augment)
    return TokenView(TrainTransform(start.preprocess, start.augment), tokenized, grid, options)


def open_tokenizer(start: Start, options: BEiTOptions) -> tuple[DiscreteVAE, Preprocess]:
    """The trained tokenizer that the options name, with its own preprocessing.

    Raises:
        VitrailError: none is named, or it is no tokenizer.
    """
    if not options.tokenizer:
        raise VitrailError(
            "beit predicts the tokens of a trained tokenizer: train one (vitrail pretrain DATA --method tokenizer "
            "--model dvae_…) and name its folder (--method-options tokenizer=runs/…)"
        )
    artefact = open_model(options.tokenizer, online=start.online)
    if not isinstance(artefact.model, DiscreteVAE):
        raise VitrailError(f"{options.tokenizer} is a {type(artefact.model).__name__}, not a tokenizer (dvae_…)")
    return artefact.model, artefact.preprocess
