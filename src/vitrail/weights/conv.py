"""ResNet and ConvNeXt as torchvision, timm and ConvNeXt's authors name them.

torchvision and timm share the names of a ResNet. The architecture is read off the names and shapes; the table of names
is then that of the model itself, renamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.models import ConvNeXtConfig, ModelConfig, ResNetConfig, build
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.names import Format, Name, State, Translated, blocks_in, stack_rows, translate
from vitrail.weights.timm import classes_of, hints_of

Rename = Callable[[str], str]
"""From our name of a tensor to theirs."""


def names_of(config: ModelConfig) -> list[str]:
    """Every stored tensor of a model, by our names."""
    with torch.device("meta"):
        return list(build(config).state_dict())


def _img_size(raw: Raw) -> int | tuple[int, int]:
    """What timm's ``config.json`` says; convolutions take every size."""
    size = hints_of(raw).img_size
    if size is None:
        return 224
    return size[0] if size[0] == size[1] else size


def _require(tensors: Mapping[str, Tensor], names: Iterable[str], source: str) -> None:
    absent = [name for name in names if name not in tensors]
    if absent:
        raise CheckpointError(f"{source}: incomplete: there is no {', '.join(absent)}")


def _depths(tensors: Mapping[str, Tensor], stages: Iterable[str], source: str) -> tuple[int, ...]:
    """Blocks of each stage, whose number a pattern captures."""
    depths = tuple(blocks_in(tensors, stage) for stage in stages)
    if min(depths) < 1:
        raise CheckpointError(f"{source}: incomplete: blocks of the four stages: {depths}")
    return depths


# ---------------------------------------------------------------------- ResNet


def resnet_name(ours: str) -> str:
    """``stages.layer1.0.conv1.weight`` is called ``layer1.0.conv1.weight``, the head ``fc``."""
    return ours.removeprefix("stages.") if ours.startswith("stages.") else ours.replace("head.", "fc.")


@dataclass(frozen=True)
class ResNetNaming:
    """One way of naming a ResNet.

    Attributes:
        name: of the format.
        rename: from our names.
        blocks: finds the number of a block of a stage, whose own stands for ``{s}`` (from 0) or ``{n}`` (from 1).
    """

    name: str
    rename: Rename
    blocks: str

    def recognises(self, names: frozenset[str]) -> bool:
        """A stem and the first block of the first stage."""
        ours = ("stages.conv1.weight", "stages.bn1.weight", "stages.layer1.0.conv1.weight")
        return all(self.rename(name) in names for name in ours)

    def translate(
        self, tensors: Mapping[str, Tensor], img_size: int | tuple[int, int], account: Account
    ) -> tuple[ResNetConfig, State]:
        """What the tensors are the weights of, and they by our names."""
        depths = _depths(tensors, (self.blocks.format(s=s, n=s + 1) for s in range(4)), account.source)
        head, stem = tensors.get(self.rename("head.weight")), tensors[self.rename("stages.conv1.weight")]
        config = ResNetConfig(
            img_size=img_size,
            in_channels=stem.shape[1],
            num_classes=0 if head is None else head.shape[0],
            depths=depths,
            block="bottleneck" if self.rename("stages.layer1.0.conv3.weight") in tensors else "basic",
            stem="small" if stem.shape[-1] == 3 else "large",
        )
        ours = names_of(config)
        state = translate(tensors, [Name(name, (self.rename(name),)) for name in ours], {}, account)
        for counter in (name for name in ours if name.endswith("num_batches_tracked") and name not in state):
            state[counter] = torch.zeros(())
            account.missing[counter] = "zero: older files do not count the batches that their norms saw"
        return config, state

    def read(self, raw: Raw) -> Translated:
        """A ResNet in our words."""
        account = Account(str(raw.path), self.name)
        config, state = self.translate(raw.tensors, _img_size(raw), account)
        return Translated(config, state, account, classes_of(raw.config))


# ---------------------------------------------------------------------- ConvNeXt

PARTS = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}
OF_THE_AUTHORS = {"0": "dwconv", "2": "norm", "3": "pwconv1", "5": "pwconv2"}


def place_of(ours: str) -> tuple[int, str, str]:
    """Number of the layer in ``features``, number inside it, and the rest of the name."""
    _, _, layer, inside, rest = ours.split(".", 4)
    return int(layer), inside, rest


def part_of_block(rest: str, parts: Mapping[str, str], scale: str) -> str:
    """What a tensor is called inside a block, from the rest of our name.

    Args:
        rest: the last that :func:`place_of` tells.
        parts: their names by torchvision's numbers.
        scale: their name of the layer scale.
    """
    if rest == "layer_scale":
        return scale
    _, number, kind = rest.split(".")
    return f"{parts[number]}.{kind}"


def torchvision_name(ours: str) -> str:
    """torchvision's name of a ConvNeXt's tensor."""
    if ours.startswith("stages."):
        return ours.removeprefix("stages.")
    return ours.replace("fc_norm.", "classifier.0.").replace("head.", "classifier.2.")


def timm_name(ours: str) -> str:
    """timm's."""
    if not ours.startswith("stages."):
        return ours.replace("fc_norm.", "head.norm.") if ours.startswith("fc_norm.") else f"head.fc.{ours[5:]}"
    layer, inside, rest = place_of(ours)
    if layer % 2 == 0:
        return f"stages.{layer // 2}.downsample.{inside}.{rest}" if layer else f"stem.{inside}.{rest}"
    return f"stages.{layer // 2}.blocks.{inside}.{part_of_block(rest, PARTS, 'gamma')}"


def authors_name(ours: str) -> str:
    """That of ConvNeXt's authors."""
    if not ours.startswith("stages."):
        return ours.replace("fc_norm.", "norm.")
    layer, inside, rest = place_of(ours)
    if layer % 2 == 0:
        return f"downsample_layers.{layer // 2}.{inside}.{rest}"
    return f"stages.{layer // 2}.{inside}.{part_of_block(rest, OF_THE_AUTHORS, 'gamma')}"


@dataclass(frozen=True)
class ConvNeXtNaming:
    """One way of naming a ConvNeXt.

    Attributes:
        name: of the format.
        rename: from our names.
        blocks: finds the number of a block of a stage, whose number stands for ``{s}``, its place in ``features`` for
            ``{f}``.
    """

    name: str
    rename: Rename
    blocks: str

    def recognises(self, names: frozenset[str]) -> bool:
        """The stem, and a layer scale of the first block."""
        ours = ("stages.features.0.0.weight", "stages.features.1.0.layer_scale")
        return all(self.rename(name) in names for name in ours)

    def translate(
        self, tensors: Mapping[str, Tensor], img_size: int | tuple[int, int], account: Account
    ) -> tuple[ConvNeXtConfig, State]:
        """What the tensors are the weights of, and they by our names."""
        depths = _depths(tensors, (self.blocks.format(s=s, f=2 * s + 1) for s in range(4)), account.source)
        firsts = [self.rename(f"stages.features.{2 * s + 1}.0.block.0.weight") for s in range(4)]
        stem = self.rename("stages.features.0.0.weight")
        _require(tensors, [*firsts, stem], account.source)
        head = tensors.get(self.rename("head.weight"))
        config = ConvNeXtConfig(
            img_size=img_size,
            in_channels=tensors[stem].shape[1],
            num_classes=0 if head is None else head.shape[0],
            depths=depths,
            widths=tuple(tensors[name].shape[0] for name in firsts),
        )
        rows = [
            Name(name, (self.rename(name),), columns if name.endswith("layer_scale") else stack_rows)
            for name in names_of(config)
        ]
        return config, translate(tensors, rows, {}, account)

    def read(self, raw: Raw) -> Translated:
        """A ConvNeXt in our words."""
        account = Account(str(raw.path), self.name)
        config, state = self.translate(raw.tensors, _img_size(raw), account)
        return Translated(config, state, account, classes_of(raw.config))


def columns(parts: Sequence[Tensor]) -> Tensor:
    """A layer scale as torchvision has it, ``(D, 1, 1)``."""
    return parts[0].reshape(-1, 1, 1)


NAMINGS = (
    ResNetNaming("torchvision or timm (ResNet)", resnet_name, r"layer{n}\.(\d+)\."),
    ConvNeXtNaming("torchvision (ConvNeXt)", torchvision_name, r"features\.{f}\.(\d+)\."),
    ConvNeXtNaming("timm (ConvNeXt)", timm_name, r"stages\.{s}\.blocks\.(\d+)\."),
    ConvNeXtNaming("ConvNeXt by its authors", authors_name, r"stages\.{s}\.(\d+)\."),
)
FORMATS = tuple(Format(naming.name, naming.recognises, naming.read) for naming in NAMINGS)
