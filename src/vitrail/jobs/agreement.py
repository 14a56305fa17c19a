"""How far an 8-bit graph is from the float32 one that it was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data import Source, Splits
from vitrail.graphs import Output
from vitrail.jobs.backend import Graph
from vitrail.jobs.inference import Outputs, run_source
from vitrail.jobs.settings import Settings
from vitrail.metrics import fit_linear_probe, score_classifier


@dataclass(frozen=True)
class Agreement:
    """A comparison with float32 on pictures that were not calibrated on.

    Attributes:
        plan: what is in 8 bits.
        held_out: pictures compared.
        same_answer: share with the same most probable class; for an encoder, with the same nearest neighbour.
        decides: whether a changed answer is a loss: classes are answers, neighbours only a hint.
        errors: relative L2 error of every output.
        accuracy: on labelled pictures before and after, None without any.
    """

    plan: str
    held_out: int
    same_answer: float
    decides: bool
    errors: Mapping[Output, float]
    accuracy: tuple[float, float] | None

    @property
    def loss(self) -> float | None:
        """Points of accuracy lost, or answers changed; None where neither is known."""
        if self.accuracy is not None:
            return 100 * (self.accuracy[0] - self.accuracy[1])
        return 100 * (1 - self.same_answer) if self.decides else None

    def refusal(self, max_loss: float, max_error: float) -> str | None:
        """Why it cannot be kept, None when it can; what is not a number cannot."""
        if self.loss is not None and not self.loss <= max_loss:
            return f"{self.loss:.2f} points lost, more than {max_loss:g} ({self})"
        worst = max(self.errors, key=lambda name: self.errors[name])
        if not all(error <= max_error for error in self.errors.values()):
            return f"the relative error of {worst} is {self.errors[worst]:.3f}, more than {max_error:g} ({self})"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        what = "class" if self.decides else "nearest neighbour"
        errors = ", ".join(f"{name} {error:.3f}" for name, error in self.errors.items())
        text = f"same {what} for {self.same_answer:.1%} of {self.held_out} pictures, relative error {errors}"
        if self.accuracy is None:
            return text
        return f"{text}, accuracy {self.accuracy[0]:.2%} before and {self.accuracy[1]:.2%} after"


def outputs_on(graph: Graph, source: Source, settings: Settings, title: str) -> Outputs:
    """All outputs of a graph side by side, for every picture."""
    call = graph.giving(*graph.facts.outputs)
    return run_source(call, source, graph.preprocess, settings, graph.hardware, title)


def compare(
    plan: str,
    outputs: Sequence[tuple[Output, int]],
    exact: Float[Tensor, "n d"],
    found: Float[Tensor, "n d"],
    accuracy: tuple[float, float] | None,
) -> Agreement:
    """The comparison of two graphs' outputs for the same pictures.

    Args:
        plan: what is in 8 bits.
        outputs: names and widths, side by side in each row.
        exact: of the float32 graph.
        found: of the other.
        accuracy: on labelled pictures before and after, None without any.
    """
    widths = [width for _, width in outputs]
    pairs = zip(outputs, exact.split(widths, dim=1), found.split(widths, dim=1), strict=True)
    errors: dict[Output, float] = {}
    same: dict[Output, float] = {}
    for (name, _), one, other in pairs:
        errors[name] = float((one - other).norm() / one.norm())
        answers = [values.argmax(dim=1) if name == "logits" else _neighbours(values) for values in (one, other)]
        same[name] = float((answers[0] == answers[1]).double().mean())
    first = outputs[0][0]
    return Agreement(plan, len(exact), same[first], first == "logits", errors, accuracy)


def _neighbours(values: Float[Tensor, "n d"]) -> Tensor:
    directions = F.normalize(values, dim=1)
    return (directions @ directions.T).fill_diagonal_(-torch.inf).argmax(dim=1)


def accuracy_of(graph: Graph, splits: Splits, settings: Settings, data: str) -> float:
    """A classifier's accuracy on held-out pictures, or that of a linear probe on an encoder's features.

    Raises:
        VitrailError: the classes are not the classifier's.
    """
    classes = splits.val.classes
    val = outputs_on(graph, splits.val, settings, "score")
    if "logits" not in graph.facts.outputs:
        train = outputs_on(graph, splits.train, settings, "encode")
        probe = fit_linear_probe(train.values, train.labels, len(classes), settings.seed)
        return score_classifier(probe.probabilities(val.values), val.labels, classes).accuracy
    if classes != graph.facts.classes:
        raise VitrailError(
            f"the classes differ: {data} has {', '.join(classes)}; the model has {', '.join(graph.facts.classes)}"
        )
    logits = val.values[:, : len(classes)]
    return score_classifier(logits.softmax(dim=1), val.labels, classes).accuracy
