"""The video architecture that a set of weights belongs to, read off the shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vitrail.models import VideoConfig, VideoMAEConfig, shared_numbers
from vitrail.nn.embed import as_pair
from vitrail.weights.account import Account
from vitrail.weights.adapt_autoencoder import encoder_of
from vitrail.weights.files import CheckpointError
from vitrail.weights.infer import heads_of, mlp_ratio
from vitrail.weights.names import State, blocks_in

DECODER_HEADS = {192: 3, 384: 6, 512: 8, 640: 8}
"""Heads of VideoMAE's decoders; shapes do not tell them."""


@dataclass(frozen=True)
class ClipHints:
    """What shapes do not tell and the format (or a ``config.json``) does.

    Attributes:
        norm_eps: epsilon of the norms.
        last_norm_eps: epsilon of the classifier's norm and of the decoder's last one.
        img_size, frames: of a clip; they leave no trace in the weights.
        num_heads, decoder_num_heads: None where the width decides.
    """

    norm_eps: float
    last_norm_eps: float
    img_size: int | tuple[int, int] = 224
    frames: int = 16
    num_heads: int | None = None
    decoder_num_heads: int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], norm_eps: float, last_norm_eps: float, account: Account) -> ClipHints:
        """From a ``config.json`` in Transformers' words; what is assumed where it is silent goes into the account."""
        if "image_size" not in config or "num_frames" not in config:
            account.notes.append("the size of the clips does not stand in the checkpoint: assumed are 16 frames of 224")
        size = config.get("image_size", 224)
        height, width = as_pair(size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        return cls(
            norm_eps=float(config.get("layer_norm_eps", norm_eps)),
            last_norm_eps=last_norm_eps,
            img_size=height if height == width else (height, width),
            frames=int(config.get("num_frames", 16)),
            num_heads=config.get("num_attention_heads"),
            decoder_num_heads=config.get("decoder_num_attention_heads"),
        )


def infer_video(state: Mapping[str, Tensor], hints: ClipHints, account: Account) -> VideoConfig:
    """The config whose model has exactly these weights.

    Args:
        state: by our names.
        hints: of the format.
        account: says where the weights come from, and gets what had to be guessed.

    Raises:
        CheckpointError: a weight that every video transformer has is missing, or this is none.
    """
    source = account.source
    _require(state, ("patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.mlp.fc1.weight"), source)
    projection = state["patch_embed.proj.weight"]
    if projection.ndim != 5:
        raise CheckpointError(
            f"{source}: the projection has shape {tuple(projection.shape)}, not the 5 dimensions of tubelets"
        )
    if "fc_norm.weight" not in state and "norm.weight" not in state:
        raise CheckpointError(
            f"{source}: incomplete: neither a norm behind the blocks nor one behind the pool (a model of Transformers "
            "that was made with use_mean_pooling=true and without its classifier has none)"
        )
    dim, bands, frames, *patch = projection.shape
    head = state.get("head.weight")
    return VideoConfig(
        img_size=hints.img_size,
        in_channels=bands,
        num_classes=0 if head is None else head.shape[0],
        patch_size=patch[0] if patch[0] == patch[1] else (patch[0], patch[1]),
        embed_dim=dim,
        depth=blocks_in(state, r"blocks\.(\d+)\."),
        num_heads=hints.num_heads or heads_of(dim, account),
        mlp_ratio=mlp_ratio(state["blocks.0.mlp.fc1.weight"].shape[0], dim),
        norm_eps=hints.norm_eps,
        pool_norm="fc_norm.weight" in state,
        pool_norm_eps=hints.last_norm_eps,
        frames=hints.frames,
        tubelet_frames=frames,
    )


def infer_videomae(state: State, hints: ClipHints, account: Account) -> VideoMAEConfig:
    """The config whose autoencoder has exactly these weights; arguments and errors as in :func:`infer_video`."""
    found = infer_video(encoder_of(state), hints, account)
    _require(state, ("decoder.embed.weight", "decoder.blocks.0.mlp.fc1.weight"), account.source)
    dim = state["decoder.embed.weight"].shape[0]
    return VideoMAEConfig(
        **shared_numbers(found, VideoMAEConfig),
        decoder_embed_dim=dim,
        decoder_depth=blocks_in(state, r"decoder\.blocks\.(\d+)\."),
        decoder_num_heads=hints.decoder_num_heads
        or heads_of(dim, account, "decoder_num_heads", DECODER_HEADS, "decoder_num_attention_heads"),
        decoder_mlp_ratio=mlp_ratio(state["decoder.blocks.0.mlp.fc1.weight"].shape[0], dim),
        decoder_norm_eps=hints.last_norm_eps,
    )


def _require(state: Mapping[str, Tensor], names: tuple[str, ...], source: str) -> None:
    absent = [name for name in names if name not in state]
    if absent:
        raise CheckpointError(f"{source}: incomplete: there is nothing that could be {', '.join(absent)}")
