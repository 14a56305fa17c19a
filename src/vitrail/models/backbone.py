"""What every picture encoder offers, so that probes, methods and heads need not know which one they hold."""

from __future__ import annotations

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.heads.pool import require_class_token
from vitrail.models.model import ConfigT, Model, ModelT
from vitrail.nn.tokens import Tokens


class Backbone(Model[ConfigT]):
    """A picture encoder with an optional classifier on top.

    Attributes:
        num_features: width of :meth:`pool`.
    """

    num_features: int

    @abstractmethod
    def features(self, images: Tensor) -> Tokens:
        """Tokens after the last block and the final norm."""

    def leading(self, images: Tensor, count: int | None) -> Tokens:
        """The first ``count`` tokens of :meth:`features`, the class token and others that are no patches; all for None.

        A model that can leaves out what only the others need.

        Raises:
            VitrailError: there are fewer, or the first is no class token.
        """
        tokens = self.features(images)
        return tokens if count is None else require_class_token(tokens, count).leading(count)

    def reads(self) -> int | None:
        """How many tokens, from the first on, the classifier looks at; None for all."""
        return None

    def read(self, images: Tensor) -> Tokens:
        """The tokens of :meth:`features` that :meth:`pool` and :meth:`classify` look at."""
        return self.leading(images, self.reads())

    @abstractmethod
    def finish(self, tokens: Tokens) -> Tokens:
        """Tokens of any depth through what stands behind the last block: the final norm, where it fits their width.

        ``finish(intermediates(images, (-1,), norm=False)[0])`` is :meth:`features`.
        """

    @abstractmethod
    def pool(self, tokens: Tokens) -> Float[Tensor, "b f"]:
        """One vector per picture, what the classifier reads, from :meth:`features` or from :meth:`read`."""

    @abstractmethod
    def classify(self, tokens: Tokens) -> Float[Tensor, "b k"]:
        """Logits from :meth:`features`, or from :meth:`read`."""

    @abstractmethod
    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh classifier on top; 0 takes it away."""

    @abstractmethod
    def set_classifier(self, weight: Float[Tensor, "k f"], bias: Float[Tensor, " k"]) -> None:
        """Give the classifier the values of a linear layer on :meth:`pool`."""

    def forward(self, images: Tensor) -> Float[Tensor, "b k"]:
        """Logits ``(B, num_classes)``, or the pooled features when there is no classifier."""
        tokens = self.read(images)
        return self.classify(tokens) if self.num_classes else self.pool(tokens)


def working_out_all(model: ModelT) -> ModelT:
    """The same model, whose forward pass from now on works out every token, as papers count and other libraries do."""
    if isinstance(model, Backbone):
        model.read = model.features
    return model


def fresh_linear(features: int, num_classes: int, like: Tensor) -> nn.Module:
    """A classifier of deviation 0.02 without bias at the start, of the type and on the device of ``like``.

    Nothing but a pass-through for no classes.
    """
    if not num_classes:
        return nn.Identity()
    head = nn.Linear(features, num_classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head.to(like.device, like.dtype)


def copy_linear(head: nn.Module, weight: Float[Tensor, "k f"], bias: Float[Tensor, " k"]) -> None:
    """Give a classifier the values of another linear layer.

    Raises:
        VitrailError: it has another shape, or there is none.
    """
    if not isinstance(head, nn.Linear) or head.weight.shape != weight.shape:
        raise VitrailError(f"a classifier of {tuple(weight.shape)} does not fit {head}")
    head.weight.copy_(weight)
    head.bias.copy_(bias)
