"""What ``vitrail explain`` can draw of a picture encoder, kind by kind: its figure, its numbers, and what it means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.explanations import (
    PatchBasis,
    grad_cam,
    grad_rollout_maps,
    head_mean,
    mean_of_heads,
    measure_reach,
    mutual_matches,
    outlier_limit,
    outlier_tokens,
    patch_colours,
    patch_similarity,
    position_similarity,
    record,
    relevance_maps,
    rollout_maps,
    shared_basis,
    token_norms,
    upsample_nearest,
)
from vitrail.explanations.charts import PRINT, ChartColours, norm_chart, reach_chart
from vitrail.explanations.features import colour_rows, frame_grid, match_panel, position_grid, similarity_panel
from vitrail.explanations.figures import head_grid, layer_head_grid, two_panel
from vitrail.explanations.given import Given, watch
from vitrail.explanations.record import LayerAttention, rows_of
from vitrail.models import Backbone
from vitrail.nn.tokens import Tokens

Kind = Literal[
    "attention",
    "heads",
    "layers",
    "rollout",
    "grad-rollout",
    "relevance",
    "grad-cam",
    "pca",
    "similarity",
    "reach",
    "norms",
    "positions",
]
MATCHES = 24
"""Pairs of patches that are drawn between two pictures, at most."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Drawing:
    """One kind, drawn.

    Attributes:
        kind: which.
        figure: on white.
        arrays: the numbers behind it, by name.
        chart: draws it in other colours, where it is a chart that a page may want in its own.
    """

    kind: str
    figure: Figure
    arrays: Arrays = field(default_factory=dict)
    chart: Callable[[ChartColours], Figure] | None = None


@dataclass(frozen=True)
class Other:
    """A second picture to compare with: as the model saw it, and its features."""

    seen: Image.Image
    tokens: Tokens


@dataclass(frozen=True)
class Subject:
    """One picture or clip before one model; what is dear is computed once and when it is first asked for.

    Attributes:
        model: in evaluation mode.
        images: the model's input, a batch of one.
        frames: as the model saw it: one picture, or one for each step of a clip's grid.
        layer: whose heads are drawn.
        patch: whose view is drawn; that of the class token (or the mean of the patches) when None.
        classes: whose evidence is drawn, ``(1,)``; the predicted class when None.
        class_name: what that class is called.
        other: compared with, if anything.
    """

    model: Backbone
    images: Tensor
    frames: tuple[Image.Image, ...]
    layer: int = -1
    patch: tuple[int, ...] | None = None
    classes: Int[Tensor, " 1"] | None = None
    class_name: str = ""
    other: Other | None = None

    @cached_property
    def tokens(self) -> Tokens:
        """Features after the final norm."""
        with torch.no_grad():
            return self.model.features(self.images)

    @cached_property
    def views(self) -> list[LayerAttention]:
        """For every layer that looks at the picture, the row that is drawn: ``(1, heads, 1, N)``."""
        found: dict[int, LayerAttention] = {}

        def see(layer: int, given: Given) -> None:
            if len(given.mixer.seen(given.tokens, given.context).grid) >= 2:
                found[layer] = self._row(given)

        with watch(self.model, see), torch.no_grad():
            self.model.features(self.images)
        return [found[layer] for layer in sorted(found)]

    def _row(self, given: Given) -> LayerAttention:
        if self.patch is not None or given.tokens.class_token:
            return rows_of(given, (0 if self.patch is None else self.patch,))
        rows = rows_of(given, None)
        mean = rows.weights[:, :, rows.prefix :].mean(dim=2, keepdim=True)
        return replace(rows, weights=mean, queries=rows.queries[:1])

    def view(self, number: int) -> Float[Tensor, "heads ..."]:
        """The map of a layer, by head."""
        count = len(self.views)
        if not -count <= number < count:
            raise VitrailError(f"there is no layer {number} in a model of {count} attention layers")
        return self.views[number].maps()[0, :, 0]

    @property
    def whose(self) -> str:
        """Whose view is drawn, in words."""
        if self.patch is not None:
            return f"patch {', '.join(map(str, self.patch))}"
        return "class token" if self.views[-1].class_token else "mean over all patches"

    def over(self, values: Tensor, title: str, legend: str = "attention per patch") -> Figure:
        """A map ``(H, W)`` over the picture, or ``(T, H, W)`` over the frames of a clip."""
        if values.ndim == 3:
            return frame_grid(self.frames, values, title, legend)
        mark = (self.patch[0], self.patch[1]) if self.patch is not None else None
        return two_panel(self.frames[0], values, title, legend, patch=mark)


def attention(subject: Subject) -> Drawing:
    """Mean of the heads of one layer."""
    values = subject.view(subject.layer).mean(dim=0)
    where = range(len(subject.views))[subject.layer]
    title = f"{subject.whose}, layer {where}, mean of heads"
    return Drawing("attention", subject.over(values, title), {"attention": values.numpy()})


def heads(subject: Subject) -> Drawing:
    """Every head of one layer; of a clip the mean over time."""
    maps = _still(subject.view(subject.layer))
    where = range(len(subject.views))[subject.layer]
    title = f"{subject.whose}, layer {where}{_time(subject)}"
    return Drawing("heads", head_grid(subject.frames[0], maps, title), {"heads": maps.numpy()})


def layers(subject: Subject) -> Drawing:
    """Every layer and head; where layers differ in grid or heads, the mean of each layer's heads."""
    maps = [_still(subject.view(layer)) for layer in range(len(subject.views))]
    if len({tuple(values.shape) for values in maps}) == 1:
        figure = layer_head_grid(torch.stack(maps), title=f"{subject.whose}, every layer and head{_time(subject)}")
        return Drawing("layers", figure, {"layers": torch.stack(maps).numpy()})
    finest = max((tuple(values.shape[1:]) for values in maps), key=lambda grid: grid[0] * grid[1])
    means = torch.cat([upsample_nearest(head_mean(values[None]), (finest[0], finest[1])) for values in maps])
    labels = [f"layer {number}, {v.shape[1]} × {v.shape[2]} patches" for number, v in enumerate(maps)]
    figure = head_grid(subject.frames[0], means, f"{subject.whose}, mean of heads", labels=labels)
    return Drawing("layers", figure, {"layers": means.numpy()})


def _still(maps: Float[Tensor, "heads ..."]) -> Float[Tensor, "heads h w"]:
    return maps.mean(dim=1) if maps.ndim == 4 else maps


def _time(subject: Subject) -> str:
    return ", mean over time" if len(subject.frames) > 1 else ""


def rollout(subject: Subject) -> Drawing:
    """Attention followed through all layers."""
    mixed = record(subject.model, queries=None, fuse=mean_of_heads)
    with mixed as seen, torch.no_grad():
        subject.model.features(subject.images)
    values = rollout_maps(seen)[0]
    return Drawing("rollout", subject.over(values, "attention rollout, all layers"), {"rollout": values.numpy()})


def grad_rollout(subject: Subject) -> Drawing:
    """Rollout of attention weighted by the gradient of a class."""
    return _evidence(subject, "grad-rollout", grad_rollout_maps, "rollout weighted by gradients")


def relevance(subject: Subject) -> Drawing:
    """Attention of all layers that speaks for a class."""
    return _evidence(subject, "relevance", relevance_maps, "relevance")


def gradient_cam(subject: Subject) -> Drawing:
    """Features that speak for a class."""
    return _evidence(subject, "grad-cam", grad_cam, "Grad-CAM")


def _evidence(subject: Subject, kind: Kind, maps: Callable[..., Tensor], title: str) -> Drawing:
    values = maps(subject.model, subject.images, subject.classes)[0].cpu()
    total = float(values.sum())
    # Shares: the unit of a gradient says nothing to a reader.
    shares = values / total if total > 0 else values
    named = f"{title}, {subject.class_name or 'predicted class'}"
    figure = subject.over(shares, named, "share of the whole map")
    return Drawing(kind, figure, {kind.replace("-", "_"): values.numpy()})


def pca(subject: Subject) -> Drawing:
    """Patch features as colours, shared with the other picture."""
    pictures, tokens = list(subject.frames), [subject.tokens]
    if subject.other is not None:
        pictures, tokens = [*pictures, subject.other.seen], [*tokens, subject.other.tokens]
    basis: PatchBasis = shared_basis(tokens)
    colours = [patch_colours(each, basis=basis)[0] for each in tokens]
    maps = [frame for values in colours for frame in (values if values.ndim == 4 else values[None])]
    side = 3.2 if len(pictures) < 4 else 1.6
    figure = colour_rows(pictures, maps, "patch features, first three components", side)
    return Drawing("pca", figure, {"pca": colours[0].numpy()})


def similarity(subject: Subject) -> Drawing:
    """How alike one patch is to all others, in its own picture or in the other one."""
    grid = subject.tokens.grid
    if len(grid) != 2:
        raise VitrailError("patch similarity is drawn for pictures, not for clips")
    asked = subject.patch or (grid[0] // 2, grid[1] // 2)
    patch = (asked[0], asked[1])
    other = subject.other
    values = patch_similarity(subject.tokens, patch, None if other is None else other.tokens)[0]
    title = f"similarity with patch {patch[0]}, {patch[1]}"
    seen, own = subject.frames[0], (grid[0], grid[1])
    figure = similarity_panel(seen, values, patch, None if other is None else other.seen, own, title)
    return Drawing("similarity", figure, {"similarity": values.numpy()})


def matches(subject: Subject) -> Drawing:
    """Patches of the two pictures that are each other's nearest."""
    if subject.other is None:
        raise VitrailError("matches need a second picture: --other FILE")
    pairs = mutual_matches(subject.tokens, subject.other.tokens, MATCHES)
    grids = [(tokens.grid[0], tokens.grid[1]) for tokens in (subject.tokens, subject.other.tokens)]
    figure = match_panel(subject.frames[0], subject.other.seen, pairs, (grids[0], grids[1]), "mutual nearest patches")
    places = np.array([[*pair.one, *pair.other] for pair in pairs], dtype=np.int64).reshape(-1, 4)
    return Drawing("matches", figure, {"matches": places})


def reach(subject: Subject) -> Drawing:
    """How far heads look and how evenly."""
    found = measure_reach(subject.model, subject.images)
    size = (subject.images.shape[-2], subject.images.shape[-1])
    arrays = {}
    for layer in found:
        arrays[f"distance_{layer.layer:02d}"] = layer.distance[0].numpy()
        arrays[f"entropy_{layer.layer:02d}"] = layer.entropy[0].numpy()

    def chart(colours: ChartColours) -> Figure:
        title = "how far each head looks, and how evenly" if colours.paper else ""
        return reach_chart(found, size, colours, title)

    return Drawing("reach", chart(PRINT), arrays, chart)


def norms(subject: Subject) -> Drawing:
    """How long tokens are before the final norm."""
    with torch.no_grad():
        (raw,) = subject.model.intermediates(subject.images, (-1,), norm=False)
    lengths, marked, limit = token_norms(raw)[0], outlier_tokens(raw)[0], float(outlier_limit(raw)[0])

    def chart(colours: ChartColours) -> Figure:
        title = "norms of tokens" if colours.paper else ""
        return norm_chart(lengths, marked, raw.prefix, limit, colours, title, raw.class_token)

    return Drawing("norms", chart(PRINT), {"norms": lengths.numpy(), "outliers": marked.numpy()}, chart)


def positions(subject: Subject) -> Drawing:
    """How alike the positions of patches are."""
    grid = subject.tokens.grid
    if len(grid) != 2:
        raise VitrailError("position similarity is drawn for pictures, not for clips")
    values = position_similarity(subject.model, grid)
    return Drawing("positions", position_grid(values, "similarity of positions"), {"positions": values.numpy()})


KINDS: dict[Kind, Callable[[Subject], Drawing]] = {
    "attention": attention,
    "heads": heads,
    "layers": layers,
    "rollout": rollout,
    "grad-rollout": grad_rollout,
    "relevance": relevance,
    "grad-cam": gradient_cam,
    "pca": pca,
    "similarity": similarity,
    "reach": reach,
    "norms": norms,
    "positions": positions,
}
