"""One forward pass, and afterwards any row of any layer: what lets a page ask for attention while a mouse moves.

What every mixer was given is kept instead of what it computed: N × D numbers a layer, not heads × N × N. A row costs
the queries that were asked for and the keys of its layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.explanations.given import Given, attention_layers, evaluating, watch
from vitrail.explanations.record import AttentionRecord, Fuse, LayerAttention, Query, every_head, rows_of
from vitrail.models import Backbone
from vitrail.nn.tokens import Grid, Tokens


@dataclass(frozen=True)
class Recall:
    """A forward pass that can be asked about later, from any thread.

    Attributes:
        model: what ran. Its weights must stay as they are.
        given: what every attention layer was given, in the order of :func:`attention_layers`; empty for a model
            without attention.
        taps: tokens after every block or stage, before the final norm.
        tokens: tokens after the last one and the final norm: ``model.features(images)``.
        logits: ``(B, K)`` float32, None for a model without classifier.
    """

    model: Backbone
    given: tuple[Given, ...]
    taps: tuple[Tokens, ...]
    tokens: Tokens
    logits: Float[Tensor, "b k"] | None

    def layer(self, number: int) -> Given:
        """What a layer was given; negative numbers count from the last one.

        Raises:
            VitrailError: there is no such layer.
        """
        depth = len(self.given)
        if not depth:
            raise VitrailError(f"{type(self.model).__name__} has no attention layers")
        if not -depth <= number < depth:
            raise VitrailError(f"there is no layer {number} in a model of {depth} attention layers")
        return self.given[number]

    def rows(self, layer: int, queries: Sequence[Query] | None = None, fuse: Fuse = every_head) -> LayerAttention:
        """The attention of chosen tokens in a layer, in float32: what :func:`record` would have recorded.

        Args:
            layer: its number, negatives from the end.
            queries: tokens by place, patches by ``(row, column)``; None for all N rows.
            fuse: what to keep of the heads.

        Raises:
            VitrailError: there is no such layer, token or patch.
        """
        return rows_of(self.layer(layer), queries, fuse)

    def record(self, queries: Sequence[Query] | None = None, fuse: Fuse = every_head) -> AttentionRecord:
        """The rows of chosen tokens in all layers, as :func:`record` gives them."""
        result = AttentionRecord(len(self.given))
        for layer in range(len(self.given)):
            result.add(layer, self.rows(layer, queries, fuse))
        return result

    def features(self, depth: int = -1) -> Tokens:
        """Tokens after a block or stage, through the final norm where it fits their width.

        Raises:
            VitrailError: there is no such depth.
        """
        if not -len(self.taps) <= depth < len(self.taps):
            raise VitrailError(f"there is no depth {depth} in a model of {len(self.taps)} blocks or stages")
        if depth % len(self.taps) == len(self.taps) - 1:
            return self.tokens
        with torch.inference_mode():
            return self.model.finish(self.taps[depth])

    @property
    def seen(self) -> tuple[Tokens, ...]:
        """The tokens that each attention layer looks at."""
        return tuple(given.mixer.seen(given.tokens, given.context) for given in self.given)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The patch grid that each attention layer looks at."""
        return tuple(seen.grid for seen in self.seen)

    @property
    def nbytes(self) -> int:
        """Bytes of all tokens that are kept."""
        sizes = {tensor.data_ptr(): tensor.nbytes for tensor in self._tensors()}
        return sum(sizes.values())

    def _tensors(self) -> Iterator[Tensor]:
        yield self.tokens.values
        for tap in self.taps:
            yield tap.values
        for given in self.given:
            yield given.tokens.values


def remember(model: Backbone, images: Float[Tensor, "b c height width"]) -> Recall:
    """Run a model once, with its own kernels, and keep what its attention layers were given.

    Runs in evaluation mode and without gradients, under the autocast of the caller, and leaves the model in the mode
    it was in. No other thread may run the same model meanwhile: it would be recorded too.

    Args:
        model: any picture encoder, with attention or without.
        images: as the model takes them.
    """
    given: dict[int, Given] = {}
    watching = watch(model, given.__setitem__) if attention_layers(model) else nullcontext()
    with evaluating(model), torch.inference_mode(), watching:
        taps = model.intermediates(images, range(model.taps), norm=False)
        tokens = model.finish(taps[-1])
        logits = model.classify(tokens).float() if model.num_classes else None
    return Recall(model, tuple(given[layer] for layer in sorted(given)), tuple(taps), tokens, logits)
