"""What every family offers, so that probes, methods, explanations and heads need not know which one they hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import Role
from vitrail.nn.tokens import Tokens


class Backbone(nn.Module, ABC):
    """A picture encoder with an optional classifier on top.

    Attributes:
        img_size: ``(height, width)`` that the positions were made for.
        patch_size: ``(height, width)`` that both sides of a picture must be multiples of.
        in_channels: bands of a picture.
        num_features: width of :meth:`pool`.
        num_classes: of the classifier, 0 when it has none.
    """

    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    in_channels: int
    num_features: int
    num_classes: int

    @abstractmethod
    def features(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        """Tokens after the last block and the final norm."""

    @abstractmethod
    def intermediates(self, images: Float[Tensor, "b c h w"], depths: Sequence[int], norm: bool = True) -> list[Tokens]:
        """Tokens after chosen blocks (negative numbers count from the end), normalised by the final norm or not."""

    @abstractmethod
    def pool(self, tokens: Tokens) -> Float[Tensor, "b f"]:
        """One vector per picture, what the classifier reads."""

    @abstractmethod
    def classify(self, tokens: Tokens) -> Float[Tensor, "b k"]:
        """Logits from :meth:`features`."""

    @abstractmethod
    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh classifier on top; 0 takes it away."""

    @abstractmethod
    def set_classifier(self, weight: Float[Tensor, "k f"], bias: Float[Tensor, " k"]) -> None:
        """Give the classifier the values of a linear layer on :meth:`pool`."""

    @abstractmethod
    def roles(self) -> dict[str, Role]:
        """Depth and weight decay of every parameter, for layer-wise learning rates."""

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits ``(B, num_classes)``, or the pooled features when there is no classifier."""
        tokens = self.features(images)
        return self.classify(tokens) if self.num_classes else self.pool(tokens)
