"""The convolutional baselines, built by torchvision, behind the same calls as the transformers: ResNet and ConvNeXt.

Sources: ResNet (He et al. 2016; the stride stands in the 3 × 3 convolution, as in torchvision), ConvNeXt (Liu et al.
2022). A tap is one of the four stages, whose map has a 4th, 8th, 16th and 32nd of the picture's sides. Names below
``stages.`` are torchvision's own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet
from torchvision.ops import FrozenBatchNorm2d, stochastic_depth

from vitrail.contracts import Role, VitrailError
from vitrail.models.backbone import Backbone, copy_linear
from vitrail.models.model import ModelConfig
from vitrail.nn.embed import as_pair
from vitrail.nn.init import init_trunc_normal
from vitrail.nn.residual import drop_path_rates
from vitrail.nn.tokens import Tokens

BlockName = Literal["basic", "bottleneck"]
BLOCKS: dict[BlockName, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}

StemName = Literal["large", "small"]

BatchNormName = Literal["batch", "frozen"]
STEMS: dict[StemName, tuple[int, int, int]] = {"large": (7, 2, 3), "small": (3, 1, 1)}
"""Kernel, stride and padding of the first convolution."""

BATCH_NORMS: dict[BatchNormName, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d}


# ---------------------------------------------------------------------- stages: pictures in, four maps out


class ResNetStages(nn.Module):
    """A ResNet without its head.

    Args:
        block: ``"basic"`` (18, 34) or ``"bottleneck"`` (50, 101, 152).
        depths: blocks of each stage.
        in_channels: bands of a picture.
        norm: makes a norm of a given width; ``FrozenBatchNorm2d`` for detectors.
        drop_path: rate of stochastic depth of the last block; earlier ones have less.
        dilation: whether the last stage has a dilation in place of its stride, and so a map of twice the sides.
        stem: ``"large"``: a 7 × 7 convolution with stride 2 and a pool, which together keep a 4th of each side; or
            ``"small"``: a 3 × 3 convolution that keeps them, for pictures of about 32 pixels (section 4.2).
    """

    def __init__(
        self,
        block: BlockName = "bottleneck",
        depths: Sequence[int] = (3, 4, 6, 3),
        in_channels: int = 3,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        drop_path: float = 0.0,
        dilation: bool = False,
        stem: StemName = "large",
    ) -> None:
        super().__init__()
        dilated = [False, False, dilation]
        net = TorchvisionResNet(
            BLOCKS[block], list(depths), num_classes=1, replace_stride_with_dilation=dilated, norm_layer=norm
        )
        self.widths = tuple(width * BLOCKS[block].expansion for width in (64, 128, 256, 512))
        self.conv1 = net.conv1
        if in_channels != 3 or stem == "small":
            self.conv1 = nn.Conv2d(in_channels, 64, *STEMS[stem], bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1, self.relu = net.bn1, net.relu
        self.maxpool: nn.Module = nn.Identity() if stem == "small" else net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        blocks = [block for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for block in stage]
        for rate, unit in zip(drop_path_rates(drop_path, len(blocks)), blocks, strict=True):
            if rate:
                _drop_branch(unit, rate)

    def forward(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d h2 w2"]]:
        """The map of every stage, finest first."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps


def _drop_branch(unit: nn.Module, rate: float) -> None:
    """Stochastic depth of a residual block. torchvision's has no place for it, but its branch ends in a norm."""
    last = unit.bn3 if isinstance(unit, Bottleneck) else unit.bn2
    assert isinstance(last, nn.Module)
    last.register_forward_hook(partial(_drop, rate, unit))


def _drop(rate: float, unit: nn.Module, norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    # The block's mode, not the norm's: a frozen norm is in evaluation mode while the model trains.
    return stochastic_depth(output, rate, "row", unit.training)


class ConvNeXtStages(nn.Module):
    """A ConvNeXt without its head.

    Args:
        depths: blocks of each stage.
        widths: channels of each stage.
        in_channels: bands of a picture.
        layer_scale: initial factor on the residual branches.
        drop_path: rate of stochastic depth of the last block; earlier ones have less.
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 3, 9, 3),
        widths: Sequence[int] = (96, 192, 384, 768),
        in_channels: int = 3,
        layer_scale: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        following: list[int | None] = [*widths[1:], None]
        settings = [CNBlockConfig(*stage) for stage in zip(widths, following, depths, strict=True)]
        self.widths = tuple(widths)
        self.features = TorchvisionConvNeXt(settings, drop_path, layer_scale, num_classes=1).features
        if in_channels != 3:
            stem = nn.Conv2d(in_channels, widths[0], kernel_size=4, stride=4)
            nn.init.trunc_normal_(stem.weight, std=0.02)
            nn.init.constant_(stem.get_parameter("bias"), 0.0)
            self.features.set_submodule("0.0", stem)

    def forward(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d h2 w2"]]:
        """The map of every stage, finest first."""
        x, maps = images, []
        for number, layer in enumerate(self.features):  # Stem, stage, then downsampling and stage by turns.
            x = layer(x)
            if number % 2:
                maps.append(x)
        return maps


# ---------------------------------------------------------------------- backbones


@dataclass(frozen=True)
class ConvConfig(ModelConfig):
    """The numbers that both families have.

    Attributes:
        depths: blocks of each of the four stages.
        dropout: before the classifier, while training.
        drop_path: rate of stochastic depth of the last block, while training.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise VitrailError(f"depths names the blocks of four stages, at least 1 each, not {self.depths}")
        if self.num_classes < 0 or not 0.0 <= self.drop_path < 1.0:
            raise VitrailError(
                f"num_classes must not be negative and drop_path at least 0 and below 1 "
                f"(num_classes={self.num_classes}, drop_path={self.drop_path})"
            )


ConvT = TypeVar("ConvT", bound=ConvConfig)


class ConvNet(Backbone[ConvT]):
    """Four stages of convolutions, the mean over the last map, a norm, a classifier.

    Args:
        config: the family's numbers.
        stages: gives the maps of four stages.
        widths: channels of each.
        norm: of the pooled vector.
        least: pixels that either side of a picture has at least.
    """

    def __init__(self, config: ConvT, stages: nn.Module, widths: Sequence[int], norm: nn.Module, least: int) -> None:
        super().__init__()
        self.config = config
        self.img_size = as_pair(config.img_size)
        self.patch_size = (1, 1)  # Every size will do: what strides do not divide is padded or cut inside.
        self.in_channels = config.in_channels
        self.taps = len(widths)
        self.num_features = widths[-1]
        self.least = least
        self.stages = stages
        self.fc_norm = norm
        self.head_drop = nn.Dropout(config.dropout)
        self.head: nn.Module = nn.Identity()
        self.reset_classifier(config.num_classes)

    @abstractmethod
    def fresh_head(self) -> nn.Linear:
        """A classifier, initialised as published."""

    @abstractmethod
    def depth_of(self, name: str) -> int:
        """Distance from the input of a parameter of :attr:`stages`: 0 for the stem, ``i + 1`` for block ``i``."""

    def maps(self, images: Tensor) -> list[Float[Tensor, "b d h w"]]:
        """The map of every stage, finest first.

        Raises:
            VitrailError: another number of bands, or a picture that is too small.
        """
        _, bands, height, width = images.shape
        if bands != self.in_channels:
            raise VitrailError(
                f"pictures have {bands} channels but the model takes {self.in_channels}: "
                "convert the pictures, or build the model with in_channels to match"
            )
        if min(height, width) < self.least:
            raise VitrailError(f"a picture of {height}x{width} is too small: both sides need {self.least} pixels")
        return self.stages(images)

    def features(self, images: Tensor) -> Tokens:
        """The last stage's map as tokens."""
        return _tokens(self.maps(images)[-1])

    def finish(self, tokens: Tokens) -> Tokens:
        """The tokens as they are: the norm stands behind the pool."""
        return tokens

    def intermediates(self, images: Tensor, depths: Sequence[int], norm: bool = True) -> list[Tokens]:
        """Maps of chosen stages as tokens, as they are: the norm behind the pool fits none of them."""
        for depth in depths:
            if not -self.taps <= depth < self.taps:
                raise IndexError(f"there is no stage {depth} in a model of {self.taps} stages")
        maps = self.maps(images)
        return [_tokens(maps[depth]) for depth in depths]

    def pool(self, tokens: Tokens) -> Float[Tensor, "b f"]:
        """The mean over the map, through the norm behind it."""
        return self.fc_norm(tokens.values.mean(dim=1))

    def classify(self, tokens: Tokens) -> Float[Tensor, "b k"]:
        """Logits."""
        return self.head(self.head_drop(self.pool(tokens)))

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head; 0 takes it away."""
        self.num_classes = num_classes
        self.config = replace(self.config, num_classes=num_classes)
        reference = next(self.stages.parameters())
        self.head = self.fresh_head().to(reference.device, reference.dtype) if num_classes else nn.Identity()

    @torch.no_grad()
    def set_classifier(self, weight: Float[Tensor, "k f"], bias: Float[Tensor, " k"]) -> None:
        """Give the head these values."""
        copy_linear(self.head, weight, bias)

    def roles(self) -> dict[str, Role]:
        """Stem 0, block ``i`` at ``i + 1``, norm and head last; decay for matrices and kernels, no layer scales."""
        last = sum(self.config.depths) + 1
        return {
            name: Role(
                self.depth_of(name.removeprefix("stages.")) if name.startswith("stages.") else last,
                decay=parameter.ndim > 1 and not name.endswith("layer_scale"),
            )
            for name, parameter in self.named_parameters()
        }


def _tokens(feature_map: Float[Tensor, "b d h w"]) -> Tokens:
    return Tokens(feature_map.flatten(2).transpose(1, 2), grid=tuple(feature_map.shape[-2:]))


@dataclass(frozen=True)
class ResNetConfig(ConvConfig):
    """What tells one ResNet from another.

    Attributes:
        block: ``"basic"`` or ``"bottleneck"``.
        norm: ``"batch"``, or ``"frozen"``: its statistics and factors are constants (detectors, small batches).
        stem: ``"large"``, or ``"small"`` for pictures of about 32 pixels (He et al. 2016, section 4.2).
    """

    block: BlockName = "bottleneck"
    norm: BatchNormName = "batch"
    stem: StemName = "large"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stem not in STEMS:
            raise VitrailError(f"the stem of a ResNet is large or small, not {self.stem!r}")


class ResNet(ConvNet[ResNetConfig]):
    """ResNet.

    Shapes:
        ``(B, in_channels, H, W)`` of any size to logits ``(B, num_classes)``.
    """

    def __init__(self, config: ResNetConfig) -> None:
        norm = BATCH_NORMS[config.norm]
        stages = ResNetStages(config.block, config.depths, config.in_channels, norm, config.drop_path, stem=config.stem)
        super().__init__(config, stages, stages.widths, nn.Identity(), least=1)

    def fresh_head(self) -> nn.Linear:
        """PyTorch's own initialisation."""
        return nn.Linear(self.num_features, self.num_classes)

    def depth_of(self, name: str) -> int:
        """``layer3.2.conv1.weight`` is in the third block of the third stage."""
        part = name.split(".")
        if not part[0].startswith("layer"):
            return 0
        return sum(self.config.depths[: int(part[0][-1]) - 1]) + int(part[1]) + 1


@dataclass(frozen=True)
class ConvNeXtConfig(ConvConfig):
    """What tells one ConvNeXt from another.

    Attributes:
        widths: channels of each stage.
        layer_scale: initial factor on the residual branches.
        norm_eps: epsilon of the norm behind the pool; that of all others is 1e-6.
    """

    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    layer_scale: float = 1e-6
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.widths) != 4:
            raise VitrailError(f"widths names the channels of four stages, not {self.widths}")


class ConvNeXt(ConvNet[ConvNeXtConfig]):
    """ConvNeXt.

    Shapes:
        ``(B, in_channels, H, W)`` from 32 pixels on to logits ``(B, num_classes)``.
    """

    def __init__(self, config: ConvNeXtConfig) -> None:
        stages = ConvNeXtStages(config.depths, config.widths, config.in_channels, config.layer_scale, config.drop_path)
        norm = nn.LayerNorm(config.widths[-1], eps=config.norm_eps)
        super().__init__(config, stages, stages.widths, norm, least=32)

    def fresh_head(self) -> nn.Linear:
        """As all linear layers of a ConvNeXt."""
        head = nn.Linear(self.num_features, self.num_classes)
        init_trunc_normal(head)
        return head

    def depth_of(self, name: str) -> int:
        """``features.3.2…`` is in the third block of the second stage; downsampling goes with the block behind it."""
        layer, block = (int(part) for part in name.split(".")[1:3])
        if layer == 0:
            return 0
        return sum(self.config.depths[: layer // 2]) + (block if layer % 2 else 0) + 1


CONV_MODELS: dict[str, ConvConfig] = {
    "resnet18": ResNetConfig(depths=(2, 2, 2, 2), block="basic"),
    "resnet34": ResNetConfig(depths=(3, 4, 6, 3), block="basic"),
    "resnet50": ResNetConfig(depths=(3, 4, 6, 3)),
    "resnet101": ResNetConfig(depths=(3, 4, 23, 3)),
    "resnet152": ResNetConfig(depths=(3, 8, 36, 3)),
    "convnext_tiny": ConvNeXtConfig(),
    "convnext_small": ConvNeXtConfig(depths=(3, 3, 27, 3)),
    "convnext_base": ConvNeXtConfig(depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024)),
    "convnext_large": ConvNeXtConfig(depths=(3, 3, 27, 3), widths=(192, 384, 768, 1536)),
}
