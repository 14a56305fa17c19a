"""Whether a graph says what its model says: on noise and on photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data.preprocess import Preprocess
from vitrail.graphs.facts import Output
from vitrail.graphs.runners import Runner
from vitrail.graphs.traced import Traceable, pictures_for

TOLERANCE = 1e-3
"""Largest difference that a float32 graph may show, over the largest number of the model's answer."""


@dataclass(frozen=True)
class Difference:
    """How far one output of a graph is from the model's, on one kind of input.

    Attributes:
        output: its name.
        inputs: "noise" or "photographs".
        largest: absolute difference.
        scale: largest absolute number of the model's answer.
    """

    output: Output
    inputs: str
    largest: float
    scale: float

    @property
    def within(self) -> bool:
        """Whether the graph may be kept; NaN is not."""
        return self.largest <= TOLERANCE * self.scale

    def __str__(self) -> str:
        return f"{self.output} on {self.inputs}: {self.largest:.1e} of {self.scale:.3g}"


def differences(model: Traceable, runner: Runner, preprocess: Preprocess) -> list[Difference]:
    """Every output on noise (three at once) and on two photographs (one at a time)."""
    noise = pictures_for(model.model, 3)
    found = _compare(model, runner, "noise", [noise])
    pictures = photographs(preprocess, noise)
    return found + (_compare(model, runner, "photographs", pictures.split(1)) if pictures is not None else [])


def require_equal(found: Sequence[Difference], what: str) -> None:
    """Refuse a graph that is wrong.

    Raises:
        VitrailError: naming the outputs that differ, and the tolerance.
    """
    wrong = [str(one) for one in found if not one.within]
    if wrong:
        raise VitrailError(
            f"{what}: not kept, the graph differs from the model by more than {TOLERANCE:g} of the largest number: "
            + "; ".join(wrong)
        )


def photographs(preprocess: Preprocess, like: Tensor) -> Tensor | None:
    """The two photographs that scikit-learn brings, ready for the model; None for one whose bands are not colours."""
    if preprocess.bands not in (1, 3):
        return None
    # Here, since scikit-learn takes a second to import, which reading a graph should not cost.
    from sklearn.datasets import load_sample_images

    pictures = [torch.from_numpy(pixels.copy()).permute(2, 0, 1) for pixels in load_sample_images().images]
    ready = preprocess.with_size((like.shape[-2], like.shape[-1])).batch(pictures)
    return ready if like.ndim == ready.ndim else ready.unsqueeze(2).expand(-1, -1, like.shape[2], -1, -1)


def _compare(model: Traceable, runner: Runner, inputs: str, batches: Sequence[Tensor]) -> list[Difference]:
    with torch.inference_mode():
        wanted = [torch.cat(parts) for parts in zip(*(model(batch) for batch in batches), strict=True)]
    given = [torch.cat(parts) for parts in zip(*(runner(batch, model.outputs) for batch in batches), strict=True)]
    return [
        Difference(name, inputs, float((one - other).abs().max()), float(one.abs().max()))
        for name, one, other in zip(model.outputs, wanted, given, strict=True)
    ]
