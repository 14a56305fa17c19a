"""What is computed from an encoding when the page asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.explanations import (
    LayerAttention,
    grad_cam,
    grad_rollout_maps,
    mean_of_heads,
    outlier_tokens,
    patch_colours,
    position_similarity,
    relevance_maps,
    rollout,
    token_norms,
)
from vitrail.explanations.pca import shared_basis
from vitrail.explanations.reach import diagonal, reach_of
from vitrail.explanations.similarity import unit_patches
from vitrail.models import Backbone
from vitrail.nn.tokens import Tokens
from vitrail.web.encoding import Encoding
from vitrail.web.refused import Refused
from vitrail.web.wire import Maps, read_whole, signed_map, to_maps

TOP_CLASSES = 3
MAX_SQUARES = 2 << 30
"""Bytes of N × N matrices that a map over all layers may hold at once."""


def layer_row(encoding: Encoding, layer: int, query: int) -> LayerAttention:
    """One token's attention in one layer.

    Raises:
        Refused: there is no such layer or token.
    """
    depth = len(encoding.recall.given)
    if not depth:
        raise Refused(404, f"{encoding.shown.name} has no attention layers")
    if not -depth <= layer < depth:
        raise Refused(404, f"there is no layer {layer}: the model has {depth}, from 0 to {depth - 1}")
    length = encoding.recall.given[layer].tokens.values.shape[1]
    if not 0 <= query < length:
        raise Refused(404, f"there is no token {query} in layer {layer}: it has {length}, from 0 to {length - 1}")
    return encoding.recall.rows(layer, (query,))


def row(encoding: Encoding, layer: int, query: int, heads: str) -> Maps:
    """One token's attention on the layer's grid: of one head, of all, their mean or their maximum."""
    attention = layer_row(encoding, layer, query)
    maps = attention.maps()[0, :, 0]
    shares = attention.weights[0, :, 0, : attention.prefix].sum(dim=-1)
    if heads == "all":
        return to_maps(maps, shares.tolist())
    if heads == "mean":
        return to_maps(maps.mean(dim=0), [float(shares.mean())])
    if heads == "max":
        return to_maps(maps.amax(dim=0), [float(shares.amax())])
    head = read_whole(heads)
    if head is None or not 0 <= head < len(maps):
        known = f"mean, max, all or a number from 0 to {len(maps) - 1}"
        raise Refused(400 if head is None else 404, f"heads is {known} in layer {layer}, not {heads[:50]!r}")
    return to_maps(maps[head], [float(shares[head])])


def thumbs(encoding: Encoding, query: int) -> Maps:
    """One token's attention in every layer and head."""
    if not encoding.shown.uniform:
        raise Refused(404, "the layers of this model have different grids: ask for the heads of each layer by itself")
    rows = [layer_row(encoding, layer, query) for layer in range(len(encoding.recall.given))]
    shares = [row.weights[0, :, 0, : row.prefix].sum(dim=-1) for row in rows]
    return to_maps(torch.stack([row.maps()[0, :, 0] for row in rows]), torch.cat(shares).tolist())


def features(encoding: Encoding, depth: int) -> Float[Tensor, "h w d"]:
    """The patches' features after a block or stage, each of length one."""
    tokens = _features(encoding, depth)
    return unit_patches(tokens)[0].unflatten(0, tokens.grid)


def _features(encoding: Encoding, depth: int) -> Tokens:
    count = len(encoding.recall.taps)
    if not -count <= depth < count:
        raise Refused(404, f"there are no features of depth {depth}: the model has {count}, from 0 to {count - 1}")
    return encoding.recall.features(depth)


def rollout_map(encoding: Encoding, query: int | None) -> Maps:
    """Attention followed through all layers, from one token; by default the class token, or the mean of the patches."""
    tokens = encoding.recall.tokens
    if not encoding.shown.uniform:
        raise Refused(404, "rollout needs one grid in all layers: look at the layers of this model one by one")
    _require_room(encoding)
    flow = encoding.once("rollout", lambda: rollout(encoding.recall.record(fuse=mean_of_heads))[0])
    if query is None:
        rows = flow[0] if tokens.class_token else flow[tokens.prefix :].mean(dim=0)
    elif 0 <= query < len(flow):
        rows = flow[query]
    else:
        raise Refused(404, f"there is no token {query}: there are {len(flow)}, from 0 to {len(flow) - 1}")
    share = float(rows[: tokens.prefix].sum())
    return to_maps(rows[tokens.prefix :].unflatten(0, tokens.grid), [share])


def _require_room(encoding: Encoding) -> None:
    """Refuse to multiply matrices that the memory may not have room for."""
    tokens, layers, heads = encoding.recall.tokens.values.shape[1], len(encoding.recall.given), encoding.shown.heads
    needed = 4 * tokens**2 * (layers + 3 * max(heads, default=0))
    if needed > MAX_SQUARES:
        size = int(min(encoding.size) * (MAX_SQUARES / needed) ** 0.25)
        raise Refused(
            400,
            f"a map over all layers multiplies matrices of {tokens} × {tokens}, which would take {needed / 2**30:.1f} "
            f"GiB: take a size of at most {size}",
        )


def colours(encoding: Encoding, other: Encoding | None) -> Float[Tensor, "h w 3"]:
    """Patch features as colours; with another picture the two share their components and their scale."""
    tokens = encoding.recall.tokens
    if other is None or other.id == encoding.id:
        return encoding.once("colours", lambda: patch_colours(tokens)[0])
    if tokens.values.shape[-1] != other.recall.tokens.values.shape[-1]:
        raise Refused(400, "colours are shared by pictures of one model: the features of these two differ in width")
    # In the same order whoever asks, so that both pictures get their halves of one answer.
    pair = sorted((encoding, other), key=lambda one: one.id)
    basis = shared_basis([one.recall.tokens for one in pair])
    return patch_colours(tokens, basis=basis)[0]


def strip(encoding: Encoding) -> dict[str, object]:
    """What the classifier says of the tokens after every block, the three likeliest classes of each."""
    model, recall = encoding.shown.model, encoding.recall
    if not model.num_classes:
        return {"layers": None, "reason": f"{encoding.shown.name} has no classifier"}
    if len({tap.values.shape[-1] for tap in recall.taps}) > 1:
        return {"layers": None, "reason": "the classifier fits the last stage only: stages differ in width"}
    layers = []
    for depth in range(len(recall.taps)):
        with torch.inference_mode():
            logits = model.classify(recall.features(depth))[0].float()
        best = logits.softmax(dim=-1).topk(min(TOP_CLASSES, len(logits)))
        layers.append(
            [
                {"name": encoding.shown.classes[number], "p": round(share, 6)}
                for share, number in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        )
    return {"layers": layers}


def reach(encoding: Encoding) -> dict[str, object]:
    """How far and how evenly every head looks."""
    if not encoding.recall.given:
        raise Refused(404, f"{encoding.shown.name} has no attention layers")
    distances: list[list[float]] = []
    entropies: list[list[float]] = []
    for number, given in enumerate(encoding.recall.given):
        found = reach_of(given, number, encoding.size)
        distances.append([] if found is None else found.distance[0].tolist())
        entropies.append([] if found is None else found.entropy[0].tolist())
    return {"distance": distances, "entropy": entropies, "whole": diagonal(encoding.size)}


def norms(encoding: Encoding) -> dict[str, object]:
    """The length of every token before the final norm, prefix first, and the places of those that stand out."""
    last = encoding.recall.taps[-1]
    outliers = outlier_tokens(last)[0].nonzero()[:, 0]
    return {"norms": token_norms(last)[0].tolist(), "outliers": outliers.tolist()}


def positions(encoding: Encoding, query: int) -> Maps:
    """How alike the position of one patch is to those of all others."""
    tokens = encoding.recall.tokens
    first, count = tokens.prefix, tokens.patches.shape[1]
    if not first <= query < first + count:
        raise Refused(404, f"token {query} is no patch: patches are from {first} to {first + count - 1}")

    def compare() -> Tensor:
        return position_similarity(encoding.shown.model, tokens.grid)

    try:
        alike = encoding.once("positions", compare)
    except VitrailError as error:
        raise Refused(404, str(error)) from error
    return signed_map(alike.flatten(0, 1)[query - first])


Evidence = Callable[[Backbone, Tensor, Tensor | None], Tensor]
"""From a model, a batch of pictures and their classes (None for the predicted ones) to one map for each."""


def class_map(evidence: Evidence, name: str, encoding: Encoding, query: int | None, label: int | None) -> Maps:
    """What speaks for a class, the predicted one when None; where a map begins is not to be chosen.

    Raises:
        Refused: there is no such class.
        VitrailError: no classifier, or a model that the method is not for.
    """
    model, images = encoding.shown.model, encoding.images
    if label is not None and model.num_classes and not 0 <= label < model.num_classes:
        raise Refused(404, f"there is no class {label}: the model has {model.num_classes}, counted from 0")
    classes = None if label is None else torch.tensor([label], device=images.device)
    return to_maps(encoding.once(f"{name} {label}", lambda: evidence(model, images, classes)[0].detach().cpu()))


def square_class_map(evidence: Evidence, name: str, encoding: Encoding, query: int | None, label: int | None) -> Maps:
    """The same for methods that follow attention through all layers."""
    _require_room(encoding)
    return class_map(evidence, name, encoding, query, label)


KINDS: dict[str, Callable[[Encoding, int | None, int | None], Maps]] = {
    "rollout": lambda encoding, query, label: rollout_map(encoding, query),
    "grad_rollout": partial(square_class_map, grad_rollout_maps, "grad_rollout"),
    "relevance": partial(square_class_map, relevance_maps, "relevance"),
    "grad_cam": partial(class_map, grad_cam, "grad_cam"),
}
"""Maps of the whole model by name, each from an encoding, a token and a class."""
