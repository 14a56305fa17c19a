"""The models that a page shows, and what it has to know of them before any picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.explanations.recall import Recall, remember
from vitrail.jobs.inference import Hardware
from vitrail.jobs.progress import say
from vitrail.models import Backbone, DualEncoder, Model, Plain, Sam, VideoTransformer
from vitrail.speed.prepare import Prepared, prepare
from vitrail.weights import Artefact

SIZES = (224, 308, 448, 518, 672, 896)
"""Short sides in pixels that the page offers; both 14 and 16 divide most of them."""


@dataclass(frozen=True)
class Shown:
    """A model on the page.

    Attributes:
        id: for the page.
        name: for the user.
        model: in evaluation mode, where it runs: for gradients.
        ready: the same, prepared for reading pictures.
        preprocess: its own; size and crop are replaced by those of the whole picture.
        classes: names in the order of the logits, empty without a classifier.
        hardware: where and in which number format it runs.
        heads: of every attention layer.
        prefix_names: of the tokens before the patches.
        step: height and width in pixels of one place of the last grid.
        uniform: whether all attention layers look at one grid, with one number of heads.
    """

    id: str
    name: str
    model: Backbone
    ready: Prepared[Backbone]
    preprocess: Preprocess
    classes: tuple[str, ...]
    hardware: Hardware
    heads: tuple[int, ...]
    prefix_names: tuple[str, ...]
    step: tuple[int, int]
    uniform: bool

    def state(self) -> dict[str, object]:
        """What the page is told."""
        return {
            "id": self.id,
            "name": self.name,
            "layers": len(self.heads),
            "heads": list(self.heads),
            "prefix_names": list(self.prefix_names),
            "patch": list(self.step),
            "img_size": list(self.model.img_size),
            "classes": list(self.classes) or None,
            "gradients": self.model.num_classes > 0,
            "uniform": self.uniform,
        }


def show(identity: str, name: str, artefact: Artefact, hardware: Hardware) -> Shown:
    """Make a model ready for the page: on its device, run once on a small picture of noise.

    Args:
        identity: for the page.
        name: for the user.
        artefact: the model with its classes and preprocessing.
        hardware: where it is to run.

    Raises:
        VitrailError: a model that does not read pictures.
    """
    model = encoder_of(artefact.model)
    model.to(hardware.device).eval()
    # Grids and heads follow from the parts that a model is made of; running it tells them for every family.
    size = tuple(-(-64 // patch) * patch for patch in model.patch_size)
    (noise,) = model.example_inputs(1, (size[0], size[1]))
    recall = remember(model, noise)
    tokens = recall.tokens
    prepared = prepare(model, hardware.device, hardware.precision.name)
    say(prepared.choice)
    names = artefact.classes or tuple(f"class {number}" for number in range(model.num_classes))
    heads = tuple(recall.rows(layer, (0,)).weights.shape[1] for layer in range(len(recall.given)))
    return Shown(
        id=identity,
        name=name,
        model=model,
        ready=prepared,
        preprocess=artefact.preprocess,
        classes=names,
        hardware=hardware,
        heads=heads,
        prefix_names=_prefix_names(model, tokens.prefix),
        step=(size[0] // tokens.grid[0], size[1] // tokens.grid[1]),
        uniform=_uniform(recall, heads),
    )


def encoder_of(model: Model) -> Backbone:
    """The picture encoder that a model is, or has.

    Raises:
        VitrailError: it has none that reads one picture.
    """
    if isinstance(model, DualEncoder):
        return model.image
    if isinstance(model, Sam):
        return model.image_encoder
    if not isinstance(model, Backbone) or isinstance(model, VideoTransformer):
        raise VitrailError(f"a page is shown for encoders of single pictures, and a {type(model).__name__} is none")
    return model


def _uniform(recall: Recall, heads: Sequence[int]) -> bool:
    last = recall.tokens
    layers = {(seen.grid, seen.prefix) for seen in recall.seen}
    return len(set(heads)) == 1 and layers == {(last.grid, last.prefix)}


def _prefix_names(model: Backbone, prefix: int) -> tuple[str, ...]:
    if not isinstance(model, Plain):
        return tuple(f"token {number + 1}" for number in range(prefix))
    names = ["class"] if model.cls_token is not None else []
    names += ["distillation"] if model.dist_token is not None else []
    return (*names, *(f"register {number + 1}" for number in range(prefix - len(names))))


def sizes_of(models: Sequence[Shown]) -> list[int]:
    """Short sides that the page offers, those that the models were made for among them."""
    return sorted({*SIZES, *(min(shown.model.img_size) for shown in models)})
