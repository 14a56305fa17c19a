"""The parts of a vision transformer: tokens, embeddings, positions, attention, blocks. No paper has a name here."""

from vitrail.nn.attention import Attention, attend, attention_weights
from vitrail.nn.block import Block, ParallelBlock
from vitrail.nn.context import Context
from vitrail.nn.embed import PatchEmbed
from vitrail.nn.encoder import Encoder
from vitrail.nn.mlp import Mlp, SwiGLU
from vitrail.nn.residual import DropPath, LayerScale
from vitrail.nn.tokens import Grid, Tokens

__all__ = [
    "Attention",
    "Block",
    "Context",
    "DropPath",
    "Encoder",
    "Grid",
    "LayerScale",
    "Mlp",
    "ParallelBlock",
    "PatchEmbed",
    "SwiGLU",
    "Tokens",
    "attend",
    "attention_weights",
]
