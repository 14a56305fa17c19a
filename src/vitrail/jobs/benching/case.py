"""One piece of work for all contestants: a model's weights on disk in every library's format, inputs from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.models import Model
from vitrail.models.backbone import working_out_all
from vitrail.nn.residual import LayerScale
from vitrail.speed.bench.work import Answer
from vitrail.weights import Artefact, convert, create_model, load_artefact

Task = Literal["inference", "training", "mae", "input"]
Number = Literal["fp32", "bf16"]
Library = Literal["timm", "transformers"]

SEED = 0
NOISE = 0.02


@dataclass(frozen=True)
class Case:
    """What is to be done; small enough to be sent to a process.

    Attributes:
        folder: holds the weights: ``vitrail/``, ``timm/``, ``transformers/``; for input, the pictures.
        task: what is done with the model.
        batch_size: pictures at once.
        img_size: ``(height, width)`` of the model's input.
        num_classes: of the model; 0 for one that gives features.
        precision: of the arithmetic, as far as a library has it.
        threads: that the work may use.
    """

    folder: Path
    task: Task
    batch_size: int
    img_size: tuple[int, int]
    num_classes: int
    precision: Number
    threads: int

    @property
    def bf16(self) -> bool:
        """Whether the arithmetic is bfloat16."""
        return self.precision == "bf16"

    @property
    def dtype(self) -> torch.dtype:
        """Of weights that are cast."""
        return torch.bfloat16 if self.bf16 else torch.float32

    def images(self) -> Tensor:
        """``(B, 3, H, W)`` noise, the same for all."""
        generator = torch.Generator().manual_seed(SEED)
        return torch.randn(self.batch_size, 3, *self.img_size, generator=generator)

    def labels(self) -> Tensor:
        """``(B,)`` class numbers."""
        return torch.arange(self.batch_size) % self.num_classes

    def mask_noise(self, patches: int) -> Tensor:
        """``(B, patches)``: where it is low, a patch is visible."""
        return torch.rand(self.batch_size, patches, generator=torch.Generator().manual_seed(SEED))

    def ours(self) -> Model:
        """Vitrail's model."""
        return load_artefact(self.folder / "vitrail").model

    def to_export(self) -> Model:
        """The model of which graphs are made: it works out all tokens, as the exported models of timm and others do."""
        return working_out_all(self.ours()).eval()


def lay_out(
    name: str, options: Mapping[str, Any], img_size: tuple[int, int] | None, libraries: set[Library], folder: Path
) -> tuple[Model, dict[Library, str]]:
    """Make a model with random weights and write it for every library.

    Args:
        name: of the architecture.
        options: fields of the architecture to replace.
        img_size: ``(height, width)``; the model's own when None.
        libraries: for whom.
        folder: where to; empty.

    Returns:
        The model, and the libraries that do not have it, with the reason.
    """
    torch.manual_seed(SEED)
    sized: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    model = create_model(name, **{**options, **sized})
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LayerScale):
                nn.init.ones_(module.gamma)  # As small as they begin, no error of a block would come through.
        for parameter in model.parameters():
            parameter.add_(NOISE * torch.randn_like(parameter))
    Artefact(model, (), Preprocess(size=model.img_size)).save_pretrained(folder / "vitrail")
    without: dict[Library, str] = {}
    for library in sorted(libraries):
        try:
            convert(folder / "vitrail", folder / library, to=library)
        except VitrailError as error:
            without[library] = str(error).removeprefix(f"{folder / 'vitrail'}: ")
    return model, without


def as_answer(values: Tensor) -> Answer:
    """What came out, for the error."""
    return values.detach().float().cpu().numpy().astype(np.float32)
