"""The table of who can be set beside Vitrail at what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pkgutil import resolve_name

from vitrail.contracts import VitrailError
from vitrail.jobs.benching.case import Case, Library, Task
from vitrail.speed.bench.work import Work

HERE = "vitrail.jobs.benching"
OURS = "vitrail"


@dataclass(frozen=True)
class Contestant:
    """A library, or a way to run it.

    Attributes:
        tasks: the function ``(Case) -> Work`` of each task that it knows, as ``module:name`` in this folder. It is
            imported in the contestant's own process.
        needs: packages that must be installed.
        weights: the format that it reads; None where it takes Vitrail's own model.
    """

    tasks: Mapping[Task, str]
    needs: tuple[str, ...] = ()
    weights: Library | None = None

    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.needs if find_spec(package) is None]


CONTESTANTS: dict[str, Contestant] = {
    "timm": Contestant({"inference": "timm:inference", "training": "timm:training"}, ("timm",), "timm"),
    "compiled-timm": Contestant(
        {"inference": "compiled:inference", "training": "compiled:training"}, ("timm",), "timm"
    ),
    "transformers": Contestant(
        {"inference": "transformers:inference", "training": "transformers:training", "mae": "transformers:mae"},
        ("transformers",),
        "transformers",
    ),
    "transformers-eager": Contestant({"mae": "transformers:mae_eager"}, ("transformers",), "transformers"),
    "openvino": Contestant({"inference": "openvino:latency"}, ("openvino",)),
    "openvino-throughput": Contestant({"inference": "openvino:throughput"}, ("openvino",)),
    "onnxruntime": Contestant({"inference": "onnxruntime:inference"}, ("onnx", "onnxruntime")),
    "torchvision": Contestant({"input": "torchvision:reading"}),
    "all-visible": Contestant({"mae": "ours:all_visible"}),
}

VITRAIL = Contestant(
    {"inference": "ours:inference", "training": "ours:training", "mae": "ours:mae", "input": "ours:reading"}
)


@dataclass(frozen=True)
class Maker:
    """Makes a contestant's work where it is called.

    Attributes:
        function: ``module:name`` in this folder.
        case: what is to be done.
    """

    function: str
    case: Case

    def __call__(self) -> Work:
        """Import the contestant's library and get ready."""
        make: Callable[[Case], Work] = resolve_name(f"{HERE}.{self.function}")
        return make(self.case)


def known(task: Task) -> list[str]:
    """The contestants that know a task."""
    return [name for name, one in CONTESTANTS.items() if task in one.tasks]


def parse(against: str, task: Task) -> tuple[Contestant, str]:
    """A contestant as it was named, ``NAME`` or ``NAME:fp32``, and the number format that it is to have ("" for all's).

    Raises:
        VitrailError: nobody has this name, it does not know the task, or there is no such format.
    """
    name, _, precision = against.partition(":")
    if name not in CONTESTANTS:
        raise VitrailError(f"nobody called {name!r} can be set beside Vitrail; there are {', '.join(CONTESTANTS)}")
    if task not in CONTESTANTS[name].tasks:
        raise VitrailError(f"{name} does not know the task {task}; {', '.join(known(task))} do")
    if precision not in ("", "fp32", "bf16"):
        raise VitrailError(f"{against}: the number format is fp32 or bf16, not {precision!r}")
    return CONTESTANTS[name], precision
