"""DETR: a convolutional backbone, an encoder over its last map, a decoder whose queries each answer for one object.

Source: Carion et al. 2020 ("End-to-End Object Detection with Transformers"), section 3.2 and appendix A. Norms stand
behind the branches; positions are added to queries and keys in every layer, never to values; the batch norms of the
ResNet are constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from vitrail.contracts import Role, VitrailError
from vitrail.heads.detect import DetectionHead
from vitrail.models.conv import ResNetStages
from vitrail.models.model import Model, ModelConfig
from vitrail.nn.block import Block, CrossBlock, post_norm
from vitrail.nn.context import Context, Memory
from vitrail.nn.cross import CrossAttention, PlacedAttention, SeparateAttention
from vitrail.nn.embed import as_pair
from vitrail.nn.encoder import Encoder
from vitrail.nn.mlp import Mlp
from vitrail.nn.tokens import Tokens

STAGES = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class DetrConfig(ModelConfig):
    """The numbers of a DETR.

    Attributes:
        img_size: short and long side that pictures are brought to; every size will do.
        num_classes: classes of objects; COCO's numbers go to 90, so that there are 91 with those that it never used.
        depths: bottleneck blocks of each of the ResNet's stages.
        dilation: the last stage has a dilation in place of its stride (DC5): a map of twice the sides.
        embed_dim, num_heads: width of a token and a query; heads of every attention.
        encoder_depth, decoder_depth: blocks.
        mlp_ratio: MLP width over ``embed_dim``.
        num_queries: objects that can be found in a picture.
        dropout, attention_dropout: rates while training.
    """

    img_size: int | tuple[int, int] = (800, 1333)
    num_classes: int = 91
    depths: tuple[int, ...] = (3, 4, 6, 3)
    dilation: bool = False
    embed_dim: int = 256
    num_heads: int = 8
    encoder_depth: int = 6
    decoder_depth: int = 6
    mlp_ratio: float = 8.0
    num_queries: int = 100
    dropout: float = 0.1
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise VitrailError(f"depths names the blocks of four stages, at least 1 each, not {self.depths}")
        if self.embed_dim % 4 or self.embed_dim % self.num_heads:
            raise VitrailError(
                f"embed_dim must be a multiple of 4 (sines and cosines of rows and columns) and of num_heads "
                f"{self.num_heads}, not {self.embed_dim}"
            )
        least = min(self.encoder_depth, self.decoder_depth, self.num_queries, self.num_classes)
        if least < 1:
            raise VitrailError("encoder_depth, decoder_depth, num_queries and num_classes must be at least 1")


class DetrOutput(NamedTuple):
    """What the queries answer.

    Attributes:
        logits: ``(B, num_queries, num_classes + 1)``, "no object" last.
        boxes: ``(B, num_queries, 4)``: centre x and y, width, height, in shares of the picture without its padding.
    """

    logits: Float[Tensor, "b q k"]
    boxes: Float[Tensor, "b q 4"]


class Detr(Model[DetrConfig]):
    """Pictures to boxes, with no anchors and nothing to suppress.

    Args:
        config: all numbers.

    Shapes:
        ``(B, in_channels, H, W)`` of any size, and a mask ``(B, H, W)`` that is True where there is picture, for
        batches of pictures that were padded to the largest, to a :class:`DetrOutput`.
    """

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.config = config
        self.img_size = as_pair(config.img_size)
        self.patch_size = (1, 1)  # Every size will do: what strides do not divide is padded inside.
        self.in_channels = config.in_channels
        self.num_classes = config.num_classes
        self.taps = len(STAGES) + config.encoder_depth
        dim = config.embed_dim
        self.backbone = ResNetStages(
            depths=config.depths, in_channels=config.in_channels, norm=FrozenBatchNorm2d, dilation=config.dilation
        )
        for part in (self.backbone.conv1, self.backbone.layer1):
            part.requires_grad_(False)  # The authors train neither stem nor first stage.
        self.input_proj = nn.Conv2d(self.backbone.widths[-1], dim, kernel_size=1)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Encoder([_encoder_block(config) for _ in range(config.encoder_depth)])
        self.query_embed = nn.Parameter(torch.empty(config.num_queries, dim))
        self.decoder = Encoder([_decoder_block(config) for _ in range(config.decoder_depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = DetectionHead(dim, config.num_classes)
        nn.init.normal_(self.query_embed)
        _init_transformer(self.encoder)
        _init_transformer(self.decoder)

    def forward(self, images: Tensor, mask: Bool[Tensor, "b h w"] | None = None) -> DetrOutput:
        """The answers of the last decoder block.

        Raises:
            VitrailError: another number of bands, or a mask of another size than the pictures.
        """
        return DetrOutput(*self.head(self.decode(self.encode(images, mask), (-1,))[0]))

    def every_answer(self, images: Tensor, mask: Bool[Tensor, "b h w"] | None = None) -> list[DetrOutput]:
        """The answers of every decoder block through the one head, the last one's last: for the auxiliary losses."""
        depths = range(self.config.decoder_depth)
        return [DetrOutput(*self.head(queries)) for queries in self.decode(self.encode(images, mask), depths)]

    # ------------------------------------------------------------------ the steps

    def stages(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d h2 w2"]]:
        """The maps of the backbone's four stages, finest first."""
        if images.shape[1] != self.in_channels:
            raise VitrailError(
                f"pictures have {images.shape[1]} channels but the model takes {self.in_channels}: "
                "convert the pictures, or build the model with in_channels to match"
            )
        return self.backbone(images)

    def encode(self, images: Tensor, mask: Bool[Tensor, "b h w"] | None = None) -> Memory:
        """The encoder's last tokens with their positions and what of them is padding: what the decoder reads."""
        tokens, context = self._embed(self.stages(images)[-1], images, mask)
        return Memory(self.encoder(tokens, context), context.positions, context.mask)

    def decode(self, memory: Memory, depths: Sequence[int]) -> list[Float[Tensor, "b q d"]]:
        """The queries after chosen decoder blocks, each through the final norm."""
        # Not a view: PyTorch's hooks (those that count operations, say) stumble over views of parameters.
        positions = self.query_embed.repeat(memory.tokens.values.shape[0], 1, 1)
        queries = Tokens(torch.zeros_like(positions), grid=(self.config.num_queries,))
        taps = self.decoder.taps(queries, depths, Context(positions=positions, memory=memory))
        return [self.norm(tap.values) for tap in taps]

    def _embed(self, last: Tensor, images: Tensor, mask: Tensor | None) -> tuple[Tokens, Context]:
        """The last map as tokens, with what the encoder's blocks may look at."""
        values = self.dropout(self.input_proj(last).flatten(2).transpose(1, 2))
        grid = (last.shape[-2], last.shape[-1])
        if mask is None:
            present = torch.ones((1, *grid), dtype=torch.bool, device=last.device)
        else:
            present = _mask_on_grid(mask, images, grid)
        positions = sine_positions(present, self.config.embed_dim).to(values.dtype).expand_as(values)
        keys = None if mask is None else present.flatten(1)[:, None, None]
        return Tokens(values, grid), Context(mask=keys, positions=positions)

    # ------------------------------------------------------------------ what every model is asked

    def intermediates(self, images: Tensor, depths: Sequence[int], norm: bool = True) -> list[Tokens]:
        """The four stages of the backbone (0 … 3), then the encoder's blocks (4 …).

        Args:
            images: ``(B, C, H, W)``, without padding.
            depths: from 0 to ``taps - 1``; negative numbers count from the end.
            norm: says nothing here: an encoder's block ends in a norm, and none stands behind the last one.
        """
        for depth in depths:
            if not -self.taps <= depth < self.taps:
                raise IndexError(f"there is no depth {depth} in a model of {self.taps}")
        wanted = [depth % self.taps for depth in depths]
        stages = len(STAGES)
        maps = self.stages(images)
        found = {i: Tokens(x.flatten(2).transpose(1, 2), (x.shape[-2], x.shape[-1])) for i, x in enumerate(maps)}
        blocks = [depth - stages for depth in wanted if depth >= stages]
        if blocks:
            tokens, context = self._embed(maps[-1], images, None)
            taps = self.encoder.taps(tokens, blocks, context)
            found |= {stages + block: tap for block, tap in zip(blocks, taps, strict=True)}
        return [found[depth] for depth in wanted]

    def roles(self) -> dict[str, Role]:
        """Stem 0, stages 1 … 4, projection 5, then the blocks of encoder and decoder in turn, norm and head last.

        Weight decay for matrices and kernels, not for norms, biases and queries.
        """
        encoder, decoder = self.config.encoder_depth, self.config.decoder_depth
        depths = {name: i + 1 for i, name in enumerate(STAGES)}
        depths |= {f"encoder.{i}": 6 + i for i in range(encoder)}
        depths |= {f"decoder.{i}": 6 + encoder + i for i in range(decoder)}
        depths |= {"conv1": 0, "input_proj": 5, "query_embed": 6 + encoder}
        last = 6 + encoder + decoder
        roles = {}
        for name, parameter in self.named_parameters():
            part = name.removeprefix("backbone.").split(".")
            depth = depths.get(part[0], depths.get(".".join(part[:2]), last))
            roles[name] = Role(depth, decay=parameter.ndim > 1 and name != "query_embed")
        return roles


def sine_positions(present: Bool[Tensor, "b h w"], dim: int) -> Float[Tensor, "b n d"]:
    """Sines and cosines by turns of the row, then of the column, each counted from 0 to 2π over the picture alone.

    Args:
        present: True where there is picture; its last row and column are at 2π wherever the padding begins.
        dim: width of a token, a multiple of 4.

    Source: Carion et al. 2020, appendix A.4, in float32 as the authors compute it.
    """
    half = dim // 2
    pairs = torch.arange(half // 2, dtype=torch.float32, device=present.device)
    frequencies = 10_000.0 ** (-2.0 * pairs / half)
    axes = []
    for axis in (1, 2):
        places = present.cumsum(axis, dtype=torch.float32)
        places = places / (places.narrow(axis, -1, 1) + 1e-6) * (2.0 * math.pi)
        angles = places.unsqueeze(-1) * frequencies
        axes.append(torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2))
    return torch.cat(axes, dim=-1).flatten(1, 2)


def _mask_on_grid(mask: Tensor, images: Tensor, grid: tuple[int, int]) -> Bool[Tensor, "b h w"]:
    """The mask at the places of a map: that of the nearest pixel, as the authors take it."""
    if mask.shape != (images.shape[0], *images.shape[-2:]):
        raise VitrailError(f"a mask of {tuple(mask.shape)} does not fit pictures of {tuple(images.shape)}")
    return F.interpolate(mask[:, None].float(), size=grid)[:, 0].bool()


def _mlp(config: DetrConfig) -> Mlp:
    return Mlp(config.embed_dim, int(config.embed_dim * config.mlp_ratio), nn.ReLU, config.dropout)


def _attention(kind: type[SeparateAttention], config: DetrConfig) -> SeparateAttention:
    rates = config.attention_dropout, config.dropout
    return kind(config.embed_dim, config.num_heads, attention_dropout=rates[0], dropout=rates[1])


def _encoder_block(config: DetrConfig) -> Block:
    mixer = _attention(PlacedAttention, config)
    return Block(config.embed_dim, mixer, _mlp(config), order=post_norm)


def _decoder_block(config: DetrConfig) -> CrossBlock:
    mixer, cross = _attention(PlacedAttention, config), _attention(CrossAttention, config)
    return CrossBlock(config.embed_dim, mixer, cross, _mlp(config), order=post_norm)


def _init_transformer(blocks: nn.Module) -> None:
    """Xavier-uniform matrices; the biases of the attention start at zero, those of the MLP as PyTorch has them."""
    for layer in blocks.modules():
        if isinstance(layer, SeparateAttention):
            # The authors' queries, keys and values are one matrix, whose rows count as one fan-out.
            for linear, gain in ((layer.q, 0.5), (layer.k, 0.5), (layer.v, 0.5), (layer.proj, 1.0)):
                nn.init.xavier_uniform_(linear.weight, gain=math.sqrt(gain))
                nn.init.zeros_(linear.bias)
        elif isinstance(layer, Mlp):
            for linear in (layer.fc1, layer.fc2):
                nn.init.xavier_uniform_(linear.weight)


DETR_MODELS: dict[str, DetrConfig] = {
    "detr_resnet50": DetrConfig(),
    "detr_resnet50_dc5": DetrConfig(dilation=True),
    "detr_resnet101": DetrConfig(depths=(3, 4, 23, 3)),
    "detr_resnet101_dc5": DetrConfig(depths=(3, 4, 23, 3), dilation=True),
}
