"""ResNet and ConvNeXt as torchvision, timm and ConvNeXt's authors name them.

torchvision and timm share the names of a ResNet. The architecture is read off the names and shapes; the table of names
is then that of the model itself, renamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.models import ConvNeXtConfig, ModelConfig, ResNetConfig, build
from vitrail.weights.account import Account
from vitrail.weights.files import CheckpointError, Raw
from vitrail.weights.names import Format, Name, Translated, blocks_in, stack_rows, translate
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


def _require(raw: Raw, names: Iterable[str]) -> None:
    absent = [name for name in names if name not in raw.tensors]
    if absent:
        raise CheckpointError(f"{raw.path}: incomplete: there is no {', '.join(absent)}")


# ---------------------------------------------------------------------- ResNet


def resnet_name(ours: str) -> str:
    """``stages.layer1.0.conv1.weight`` is called ``layer1.0.conv1.weight``, the head ``fc``."""
    return ours.removeprefix("stages.") if ours.startswith("stages.") else ours.replace("head.", "fc.")


def resnet_recognises(names: frozenset[str]) -> bool:
    """A stem and the first block of the first stage."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= names


def read_resnet(raw: Raw) -> Translated:
    """A ResNet of torchvision or timm."""
    account = Account(str(raw.path), RESNET.name)
    names = raw.tensors.keys()
    depths = tuple(blocks_in(names, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
    if min(depths) < 1:
        raise CheckpointError(f"{raw.path}: incomplete: blocks of the four stages: {depths}")
    head = raw.tensors.get("fc.weight")
    config = ResNetConfig(
        img_size=_img_size(raw),
        in_channels=raw.tensors["conv1.weight"].shape[1],
        num_classes=0 if head is None else head.shape[0],
        depths=depths,
        block="bottleneck" if "layer1.0.conv3.weight" in names else "basic",
        stem="small" if raw.tensors["conv1.weight"].shape[-1] == 3 else "large",
    )
    ours = names_of(config)
    state = translate(raw.tensors, [Name(name, (resnet_name(name),)) for name in ours], {}, account)
    for counter in (name for name in ours if name.endswith("num_batches_tracked") and name not in state):
        state[counter] = torch.zeros(())
        account.missing[counter] = "zero: older files do not count the batches that their norms saw"
    return Translated(config, state, account, classes_of(raw.config))


# ---------------------------------------------------------------------- ConvNeXt

PARTS = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}
OF_THE_AUTHORS = {"0": "dwconv", "2": "norm", "3": "pwconv1", "5": "pwconv2"}


def _place(ours: str) -> tuple[int, str, str]:
    """Number of the layer in ``features``, number inside it, and the rest of the name."""
    _, _, layer, inside, rest = ours.split(".", 4)
    return int(layer), inside, rest


def torchvision_name(ours: str) -> str:
    """torchvision's name of a ConvNeXt's tensor."""
    if ours.startswith("stages."):
        return ours.removeprefix("stages.")
    return ours.replace("fc_norm.", "classifier.0.").replace("head.", "classifier.2.")


def timm_name(ours: str) -> str:
    """timm's."""
    if not ours.startswith("stages."):
        return ours.replace("fc_norm.", "head.norm.") if ours.startswith("fc_norm.") else f"head.fc.{ours[5:]}"
    layer, inside, rest = _place(ours)
    if layer % 2 == 0:
        return f"stages.{layer // 2}.downsample.{inside}.{rest}" if layer else f"stem.{inside}.{rest}"
    block = f"stages.{layer // 2}.blocks.{inside}"
    if rest == "layer_scale":
        return f"{block}.gamma"
    _, number, kind = rest.split(".")
    return f"{block}.{PARTS[number]}.{kind}"


def authors_name(ours: str) -> str:
    """That of ConvNeXt's authors."""
    if not ours.startswith("stages."):
        return ours.replace("fc_norm.", "norm.")
    layer, inside, rest = _place(ours)
    if layer % 2 == 0:
        return f"downsample_layers.{layer // 2}.{inside}.{rest}"
    block = f"stages.{layer // 2}.{inside}"
    if rest == "layer_scale":
        return f"{block}.gamma"
    _, number, kind = rest.split(".")
    return f"{block}.{OF_THE_AUTHORS[number]}.{kind}"


@dataclass(frozen=True)
class Naming:
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

    def read(self, raw: Raw) -> Translated:
        """A ConvNeXt in our words."""
        account = Account(str(raw.path), self.name)
        depths = tuple(blocks_in(raw.tensors, self.blocks.format(s=s, f=2 * s + 1)) for s in range(4))
        if min(depths) < 1:
            raise CheckpointError(f"{raw.path}: incomplete: blocks of the four stages: {depths}")
        firsts = [self.rename(f"stages.features.{2 * s + 1}.0.block.0.weight") for s in range(4)]
        stem = self.rename("stages.features.0.0.weight")
        _require(raw, [*firsts, stem])
        head = raw.tensors.get(self.rename("head.weight"))
        config = ConvNeXtConfig(
            img_size=_img_size(raw),
            in_channels=raw.tensors[stem].shape[1],
            num_classes=0 if head is None else head.shape[0],
            depths=depths,
            widths=tuple(raw.tensors[name].shape[0] for name in firsts),
        )
        rows = [
            Name(name, (self.rename(name),), columns if name.endswith("layer_scale") else stack_rows)
            for name in names_of(config)
        ]
        state = translate(raw.tensors, rows, {}, account)
        return Translated(config, state, account, classes_of(raw.config))


def columns(parts: Sequence[Tensor]) -> Tensor:
    """A layer scale as torchvision has it, ``(D, 1, 1)``."""
    return parts[0].reshape(-1, 1, 1)


NAMINGS = (
    Naming("torchvision (ConvNeXt)", torchvision_name, r"features\.{f}\.(\d+)\."),
    Naming("timm (ConvNeXt)", timm_name, r"stages\.{s}\.blocks\.(\d+)\."),
    Naming("ConvNeXt by its authors", authors_name, r"stages\.{s}\.(\d+)\."),
)
RESNET = Format("torchvision or timm (ResNet)", resnet_recognises, read_resnet)
FORMATS = (RESNET, *(Format(naming.name, naming.recognises, naming.read) for naming in NAMINGS))
