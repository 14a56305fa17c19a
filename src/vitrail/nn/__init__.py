"""The parts of a vision transformer: tokens, embeddings, positions, attention, blocks. No paper has a name here."""

from vitrail.nn.activation import ACTIVATIONS, ActivationName, QuickGELU
from vitrail.nn.attention import Attention, MultiHeadAttention, attend, attention_weights
from vitrail.nn.block import Block, ConditionedBlock, CrossBlock, ParallelBlock, post_norm, pre_norm
from vitrail.nn.context import Context, Memory, Rotary
from vitrail.nn.cross import CrossAttention, PlacedAttention
from vitrail.nn.decomposed import DecomposedPositions
from vitrail.nn.embed import PatchEmbed, TubeletEmbed
from vitrail.nn.encoder import Encoder
from vitrail.nn.fourier import FourierPositions
from vitrail.nn.linear import KeylessLinear
from vitrail.nn.merging import PatchMerging
from vitrail.nn.mixer import Mixer
from vitrail.nn.mlp import Mlp, SwiGLU
from vitrail.nn.norm import LayerNorm2d
from vitrail.nn.relative import RelativePositionBias
from vitrail.nn.residual import DropPath, LayerScale
from vitrail.nn.rotary import RotaryGrid
from vitrail.nn.tokens import Grid, Tokens
from vitrail.nn.window import WindowMixer

__all__ = [
    "ACTIVATIONS",
    "ActivationName",
    "Attention",
    "Block",
    "ConditionedBlock",
    "Context",
    "CrossAttention",
    "CrossBlock",
    "DecomposedPositions",
    "DropPath",
    "Encoder",
    "FourierPositions",
    "Grid",
    "KeylessLinear",
    "LayerNorm2d",
    "LayerScale",
    "Memory",
    "Mixer",
    "Mlp",
    "MultiHeadAttention",
    "ParallelBlock",
    "PatchEmbed",
    "PatchMerging",
    "PlacedAttention",
    "QuickGELU",
    "RelativePositionBias",
    "Rotary",
    "RotaryGrid",
    "SwiGLU",
    "Tokens",
    "TubeletEmbed",
    "WindowMixer",
    "attend",
    "attention_weights",
    "post_norm",
    "pre_norm",
]
