"""Token merging: a model that hands fewer patches on from block to block, with the weights of one that does not.

Source: Bolya et al. 2023, "Token Merging: Your ViT But Faster".
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from vitrail.contracts import VitrailError
from vitrail.models import Beit, DualEncoder, Model, Plain
from vitrail.nn.attention import MultiHeadAttention
from vitrail.nn.block import SelfBlock
from vitrail.nn.encoder import Encoder
from vitrail.nn.merging_block import MergingBlock, ProportionalAttention
from vitrail.speed.twin import twin

ModelT = TypeVar("ModelT", bound=Model)


def merged(model: ModelT, count: int) -> ModelT:
    """A model of the same weights whose every block merges ``count`` patches of a picture into their likes.

    Tokens come out on the full grid, each patch with the value of its token; prefix tokens are never merged. It is made
    for running, not for saving: its parameters have other names.

    Args:
        model: a plain transformer, or a pair with one for its pictures; it stays as it is. Parameters and buffers are
            shared, so what moves or trains one moves or trains both.
        count: patches a block, at most half of those that are left there (the paper's ``r``); 0 gives ``model`` itself.

    Raises:
        VitrailError: a negative count, or a model whose blocks need every place of the grid.
    """
    if count < 0:
        raise VitrailError(f"merge must be at least 0 patches a block, not {count}")
    if count == 0:
        return model
    _tower_of(model)
    other = twin(model)
    tower = _tower_of(other)
    tower.blocks = Encoder([_merging(block, count) for block in tower.blocks])
    return other


def _tower_of(model: Model) -> Plain:
    """The plain transformer whose tokens merge.

    Raises:
        VitrailError: there is none.
    """
    tower = model.image if isinstance(model, DualEncoder) else model
    if not isinstance(tower, Plain):
        raise VitrailError(
            f"tokens of a {type(model).__name__} cannot be merged: its layers need every place of the grid. Leave "
            "merge at 0, or take a plain transformer: ViT, DeiT, DINO, DINOv2, DINOv3, BEiT, CLIP, SigLIP, VideoMAE, "
            "or the encoder of an MAE"
        )
    if isinstance(tower, Beit) and tower.rel_pos_bias is not None:
        raise VitrailError(
            f"tokens of this {type(model).__name__} cannot be merged: one table of distances serves all its layers "
            "(shared_bias=True), and it is for whole grids. Leave merge at 0, or take fine-tuned weights: they have a "
            "table in every layer"
        )
    return tower


def _merging(block: nn.Module, count: int) -> MergingBlock:
    if not isinstance(block, SelfBlock) or not isinstance(block.attn, MultiHeadAttention):
        raise VitrailError(f"a {type(block).__name__} has no attention over all patches, so it cannot merge any")
    block.attn = ProportionalAttention(block.attn)
    return MergingBlock(block, count)
