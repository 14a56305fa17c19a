"""What every model of the house can be asked for, whatever its answer is: tokens at chosen depths, and roles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import Role
from vitrail.nn.norm import rest_frozen_norms
from vitrail.nn.tokens import Tokens


@dataclass(frozen=True)
class ModelConfig:
    """The numbers of an architecture. Each family has its own dataclass of this kind beside its class.

    Attributes:
        img_size: pixels that the model is made for, one number or ``(height, width)``.
        in_channels: bands of a picture.
        num_classes: of the classifier, 0 for none.
    """

    img_size: int | tuple[int, int] = 224
    in_channels: int = 3
    num_classes: int = 1000


def shared_numbers(config: ModelConfig, kind: type[ModelConfig]) -> dict[str, Any]:
    """What a config says of the fields that another kind of config has too: how a part's numbers follow from a whole's.

    Args:
        config: of the whole, or of the part.
        kind: of the other.
    """
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in asdict(config).items() if name in names}


ConfigT = TypeVar("ConfigT", bound=ModelConfig)
ModelT = TypeVar("ModelT", bound="Model[Any]")


class Model(nn.Module, ABC, Generic[ConfigT]):
    """A network that reads pictures.

    Attributes:
        config: what :func:`vitrail.models.build` makes another one from.
        img_size: ``(height, width)`` that it is made for.
        patch_size: ``(height, width)`` that both sides of a picture must be multiples of.
        in_channels: bands of a picture.
        num_classes: of the classifier, 0 when it has none.
        taps: how many depths :meth:`intermediates` knows: blocks of a plain transformer, stages of a hierarchical one.
    """

    config: ConfigT
    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    in_channels: int
    num_classes: int
    taps: int

    @abstractmethod
    def intermediates(self, images: Tensor, depths: Sequence[int], norm: bool = True) -> list[Tokens]:
        """Tokens at chosen depths (negative numbers count from the end), in the order asked for.

        Args:
            images: as :meth:`forward` takes them.
            depths: from 0 to ``taps - 1``.
            norm: through the model's final norm, where it fits the width of that depth; else as they are.

        Raises:
            IndexError: a depth that there is not.
        """

    @abstractmethod
    def roles(self) -> dict[str, Role]:
        """Depth and weight decay of every parameter, for layer-wise learning rates."""

    def train(self: ModelT, mode: bool = True) -> ModelT:
        """As of any module, but frozen batch norms stay in evaluation mode: what does not learn keeps its statistics.

        What is drawn at random (dropout, stochastic depth, left out patches) goes on in frozen blocks too: it was asked
        for by its rate, and leaves nothing behind in the weights.
        """
        super().train(mode)
        rest_frozen_norms(self)
        return self

    def feature_maps(
        self, images: Tensor, depths: Sequence[int] | None = None, norm: bool = True
    ) -> list[Float[Tensor, "b d *grid"]]:
        """What detection, segmentation and depth heads eat: :meth:`intermediates` laid out ``(B, D, H, W)``.

        Args:
            images: as :meth:`forward` takes them.
            depths: all of them when None.
            norm: as in :meth:`intermediates`.
        """
        wanted = range(self.taps) if depths is None else depths
        return [tokens.feature_map() for tokens in self.intermediates(images, wanted, norm)]

    def example_inputs(self, batch: int = 1, img_size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """Arguments that :meth:`forward` takes, filled with noise, on the model's own device: for plans and exports.

        Args:
            batch: how many samples.
            img_size: ``(height, width)``; the model's own when None.
        """
        reference = next(self.parameters())
        height, width = img_size or self.img_size
        return (torch.randn(batch, self.in_channels, height, width, device=reference.device, dtype=reference.dtype),)
