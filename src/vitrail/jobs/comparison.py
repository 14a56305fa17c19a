"""Published or earlier results that a run is set beside."""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.contracts import VitrailError


@dataclass(frozen=True)
class Comparison:
    """A result beside others.

    Attributes:
        name: whose.
        value: in per cent, 0 … 100.
        source: where it is published, or how it was measured.
        ours: whether it is this run's.

    Raises:
        VitrailError: the value is no per cent.
    """

    name: str
    value: float
    source: str = ""
    ours: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 100:
            raise VitrailError(f"comparison values are in per cent, 0 to 100, not {self.value} ({self.name})")

    @classmethod
    def parse(cls, text: str) -> Comparison:
        """``NAME=PER CENT`` or ``NAME=PER CENT=SOURCE``, as ``--compare`` takes it.

        Raises:
            VitrailError: of another form, or no per cent.
        """
        name, _, rest = text.partition("=")
        value, _, source = rest.partition("=")
        try:
            per_cent = float(value)
        except ValueError:
            raise VitrailError(f"compare {text!r} is not of the form 'name=per cent=source'") from None
        return cls(name.strip(), per_cent, source.strip())
