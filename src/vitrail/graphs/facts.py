"""What a graph carries besides its numbers: enough to use it without Vitrail."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vitrail.contracts import VitrailError
from vitrail.data.preprocess import Preprocess

Output = Literal["logits", "class_token", "patch_mean", "embedding"]
"""What a graph can give: logits; class token and mean of the patches after the final norm; a picture among words."""


@dataclass(frozen=True)
class Facts:
    """What the user of a graph must know.

    Attributes:
        family: of the architecture.
        outputs: in the graph's order.
        classes: names in the order of the logits, empty when there are none or they are not known.
        preprocess: from a picture to the graph's input ``images``.
    """

    family: str
    outputs: tuple[Output, ...]
    classes: tuple[str, ...]
    preprocess: Preprocess

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "family": self.family,
            "outputs": list(self.outputs),
            "classes": list(self.classes),
            "preprocess": self.preprocess.to_dict(),
        }

    def to_json(self) -> str:
        """One line of JSON: what the graph's metadata hold under ``vitrail``."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> Facts:
        """The inverse of :meth:`to_dict`.

        Raises:
            VitrailError: naming ``where`` and what is missing or wrong.
        """
        absent = [key for key in ("family", "outputs", "classes", "preprocess") if key not in values]
        if absent:
            raise VitrailError(f"{where}: lacks {', '.join(absent)}")
        unknown = [name for name in values["outputs"] if name not in get_args(Output)]
        if unknown:
            raise VitrailError(f"{where}: unknown outputs {', '.join(map(str, unknown))}")
        preprocess = Preprocess.from_dict(values["preprocess"])
        return cls(str(values["family"]), tuple(values["outputs"]), tuple(values["classes"]), preprocess)
