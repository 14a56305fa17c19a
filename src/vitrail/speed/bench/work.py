"""What a contestant does, and what its process and the one that times it say to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Answer = NDArray[np.float32]


@dataclass(frozen=True)
class Work:
    """A piece of work that can be done again and again.

    Attributes:
        run: does it once; returns when it is done.
        pictures: how many it goes through.
        answer: what comes out, for the error; None where there is nothing to compare.
        notes: how it is done, asked after ``answer``: number format, kernels.
        versions: of the libraries that do it.
    """

    run: Callable[[], object]
    pictures: int
    answer: Callable[[], Answer] | None = None
    notes: Callable[[], str] = str
    versions: Mapping[str, str] = field(default_factory=dict)


Make = Callable[[], Work]
"""Makes a contestant's work, in its process. It is sent there by ``pickle``."""


@dataclass(frozen=True)
class Ready:
    """A process has made its work, and done it once where it has an answer."""

    pictures: int
    answer: Answer | None
    notes: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Refused:
    """A process could not make its work, or not do it."""

    reason: str


@dataclass(frozen=True)
class Turn:
    """A request: work for about so many seconds. The reply is the mean seconds of one call of ``run``."""

    seconds: float


@dataclass(frozen=True)
class Enough:
    """The last request. The reply is the most memory that the work has held, in MiB, or None."""
