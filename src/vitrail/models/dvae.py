"""A discrete variational autoencoder: a picture as a grid of codes from a fixed vocabulary, and back.

Source: Zero-Shot Text-to-Image Generation (DALL·E, Ramesh et al. 2021, section 2.1 and appendix A.2). BEiT predicts the
codes of such a model (Bao et al. 2022, section 2.1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.contracts import Role, VitrailError
from vitrail.models.model import Model, ModelConfig
from vitrail.nn.embed import as_pair, patch_grid
from vitrail.nn.tokens import Grid, Tokens

MARGIN = 0.1
"""Pixels 0 … 1 are brought to 0.1 … 0.9 before their logit is taken, which is then finite (appendix A.3)."""


@dataclass(frozen=True)
class DVAEConfig(ModelConfig):
    """The numbers of a discrete variational autoencoder; the defaults are DALL·E's.

    Attributes:
        img_size: 112, at which BEiT takes 14×14 codes; DALL·E itself is trained at 256.
        num_classes: 0: there is no classifier.
        vocab_size: how many codes there are.
        stride: pixels along each side of what one code stands for, a power of two; every halving of the map is one
            group of blocks more.
        width: channels of the first group; they double with every group.
        blocks: residual blocks of each group, in the encoder and in the decoder.
        code_dim: width of a code's vector in the decoder.
    """

    img_size: int | tuple[int, int] = 112
    num_classes: int = 0
    vocab_size: int = 8192
    stride: int = 8
    width: int = 256
    blocks: int = 2
    code_dim: int = 128

    def __post_init__(self) -> None:
        if self.num_classes:
            raise VitrailError("a discrete autoencoder has no classes: leave num_classes at 0")
        if self.stride < 1 or self.stride & (self.stride - 1):
            raise VitrailError(f"stride must be a power of two, not {self.stride}")
        if self.width < 4 or self.width % 4 or self.blocks < 1 or self.code_dim < 1 or self.vocab_size < 2:
            raise VitrailError(
                "width must be a multiple of 4, blocks and code_dim at least 1 and vocab_size at least 2 "
                f"(width={self.width}, blocks={self.blocks}, code_dim={self.code_dim}, vocab_size={self.vocab_size})"
            )
        require_whole_codes(as_pair(self.img_size), self.stride)

    @property
    def grid(self) -> Grid:
        """Codes down and across at ``img_size``."""
        return patch_grid(as_pair(self.img_size), (self.stride, self.stride))

    @property
    def groups(self) -> int:
        """Groups of blocks in the encoder, and in the decoder."""
        return self.stride.bit_length()


def require_whole_codes(size: Sequence[int], stride: int) -> None:
    """Refuse a picture's size that codes do not fill.

    Raises:
        VitrailError: naming sizes that would do.
    """
    if any(side < stride or side % stride for side in size):
        height, width = (max(1, round(side / stride)) * stride for side in size)
        raise VitrailError(
            f"pictures of {size[0]}x{size[1]} are no whole codes of {stride} pixels: use {height}x{width}"
        )


class ConvBlock(nn.Module):
    """A bottleneck of four convolutions beside a skip connection, without norms.

    Args:
        inputs: channels that come in.
        outputs: channels that go out; a quarter of them inside.
        kernels: side of each kernel. Kernels of 1 where a block is nearest the codes keep what a code sees small.
        gain: small factor on the branch, which keeps training stable at the start (appendix A.2).
    """

    def __init__(self, inputs: int, outputs: int, kernels: tuple[int, int, int, int], gain: float) -> None:
        super().__init__()
        self.gain = gain
        inside = outputs // 4
        widths = (inputs, inside, inside, inside, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.convs = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], kernel, padding=kernel // 2) for i, kernel in enumerate(kernels)
        )

    def forward(self, values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """A map of the same size."""
        branch = values
        for conv in self.convs:
            branch = conv(F.relu(branch))
        return self.skip(values) + self.gain * branch


class CodeEncoder(nn.Module):
    """Pictures into scores of all codes.

    Args:
        config: of the whole.
    """

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        gain = 1.0 / (config.groups * config.blocks) ** 2
        width = config.width
        self.stem = nn.Conv2d(config.in_channels, width, 7, padding=3)
        groups = []
        for number in range(config.groups):
            inputs, outputs = width << max(0, number - 1), width << number
            widths = [inputs, *[outputs] * config.blocks]
            groups.append(
                nn.Sequential(*(ConvBlock(widths[i], outputs, (3, 3, 3, 1), gain) for i in range(config.blocks)))
            )
        self.groups = nn.ModuleList(groups)
        self.head = nn.Conv2d(width << (config.groups - 1), config.vocab_size, 1)

    def maps(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d h2 w2"]]:
        """The map of every group; each has half the sides of the one before."""
        values, maps = self.stem(images), []
        for group in self.groups:
            values = group(F.max_pool2d(values, 2) if maps else values)
            maps.append(values)
        return maps

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b v h2 w2"]:
        """Scores before the softmax over the codes."""
        return self.head(F.relu(self.maps(images)[-1]))


class CodeDecoder(nn.Module):
    """Weights of all codes into two maps for every band of the picture.

    Args:
        config: of the whole.
    """

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        gain = 1.0 / (config.groups * config.blocks) ** 2
        layers: OrderedDict[str, nn.Module] = OrderedDict(codes=nn.Conv2d(config.vocab_size, config.code_dim, 1))
        inputs = config.code_dim
        for number in range(config.groups):
            outputs = config.width << (config.groups - 1 - number)
            widths = [inputs, *[outputs] * config.blocks]
            parts = [ConvBlock(widths[i], outputs, (1, 3, 3, 3), gain) for i in range(config.blocks)]
            upsample = [nn.Upsample(scale_factor=2, mode="nearest")] if number < config.groups - 1 else []
            layers[f"group{number}"] = nn.Sequential(*parts, *upsample)
            inputs = outputs
        layers["relu"] = nn.ReLU()
        layers["head"] = nn.Conv2d(inputs, 2 * config.in_channels, 1)
        self.layers = nn.Sequential(layers)

    def forward(self, weights: Float[Tensor, "b v h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Location and logarithm of the scale of every pixel's logit."""
        return self.layers(weights)


class DiscreteVAE(Model[DVAEConfig]):
    """Pictures into codes and codes into pictures.

    Args:
        config: all numbers; DALL·E's when left out.

    Shapes:
        ``(B, in_channels, H, W)``, normalised, to the same picture in pixels 0 … 1; sides are multiples of ``stride``.
    """

    def __init__(self, config: DVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DVAEConfig()
        self.img_size, self.patch_size = as_pair(config.img_size), as_pair(config.stride)
        self.in_channels, self.num_classes, self.taps = config.in_channels, 0, config.groups
        self.encoder = CodeEncoder(config)
        self.decoder = CodeDecoder(config)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
                nn.init.zeros_(layer.bias)

    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b v h2 w2"]:
        """Scores of the codes at every place of the grid.

        Raises:
            VitrailError: another number of bands, or sides that codes do not fill.
        """
        if images.shape[1] != self.in_channels:
            raise VitrailError(f"pictures have {images.shape[1]} channels but the model takes {self.in_channels}")
        require_whole_codes(images.shape[2:], self.config.stride)
        return self.encoder(images)

    @torch.no_grad()
    def codes(self, images: Float[Tensor, "b c h w"]) -> Int[Tensor, "b n"]:
        """The likeliest code of every place, row by row: what BEiT calls the visual tokens."""
        return self.logits(images).argmax(dim=1).flatten(1)

    def decode(
        self, weights: Float[Tensor, "b v h w"]
    ) -> tuple[Float[Tensor, "b c h2 w2"], Float[Tensor, "b c h2 w2"]]:
        """Location and logarithm of the scale of every pixel's logit, from weights of the codes that add up to 1."""
        location, log_scale = self.decoder(weights).chunk(2, dim=1)
        return location, log_scale

    def picture_of(self, codes: Int[Tensor, "b n"], grid: Grid) -> Float[Tensor, "b c h w"]:
        """The picture that codes stand for, in pixels 0 … 1."""
        weights = F.one_hot(codes, self.config.vocab_size).mT.unflatten(2, grid)
        return pixels_of_logits(self.decode(weights.to(next(self.parameters()).dtype))[0])

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The picture through the mean of its codes, in pixels 0 … 1."""
        return pixels_of_logits(self.decode(self.logits(images).softmax(dim=1))[0])

    def intermediates(self, images: Tensor, depths: Sequence[int], norm: bool = True) -> list[Tokens]:
        """Maps of chosen groups of the encoder as tokens; there is no norm."""
        for depth in depths:
            if not -self.taps <= depth < self.taps:
                raise IndexError(f"there is no group {depth} in an encoder of {self.taps} groups")
        require_whole_codes(images.shape[2:], self.config.stride)
        maps = self.encoder.maps(images)
        return [Tokens(maps[d].flatten(2).transpose(1, 2), grid=tuple(maps[d].shape[-2:])) for d in depths]

    def roles(self) -> dict[str, Role]:
        """Stem 0, group ``i`` of the encoder at ``i + 1``, scores and decoder last; decay for kernels only."""
        roles = {}
        for name, parameter in self.named_parameters():
            part = name.split(".")
            depth = self.taps + 1
            if part[:2] == ["encoder", "stem"]:
                depth = 0
            elif part[:2] == ["encoder", "groups"]:
                depth = int(part[2]) + 1
            roles[name] = Role(depth, decay=parameter.ndim > 1)
        return roles


def logits_of_pixels(pixels: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Logits of pixels 0 … 1 once they are moved away from both ends."""
    return torch.logit(MARGIN + (1.0 - 2.0 * MARGIN) * pixels)


def pixels_of_logits(logits: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The inverse, cut to 0 … 1."""
    return ((logits.sigmoid() - MARGIN) / (1.0 - 2.0 * MARGIN)).clamp(0.0, 1.0)


DVAE_MODELS: dict[str, DVAEConfig] = {
    "dvae_tiny_stride4_28": DVAEConfig(
        img_size=28, in_channels=1, vocab_size=512, stride=4, width=16, blocks=1, code_dim=64
    ),
    "dvae_base_stride8_112": DVAEConfig(),
}
