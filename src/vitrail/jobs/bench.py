"""``vitrail bench``: Vitrail beside its peers, on the same model and weights."""

from __future__ import annotations

import datetime
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from tyro.conf import Positional

from vitrail.contracts import VitrailError
from vitrail.durable import write_json
from vitrail.engine import choose_precision
from vitrail.jobs.benching.case import Case, Library, Task, lay_out
from vitrail.jobs.benching.contestants import OURS, VITRAIL, Maker, known, parse
from vitrail.jobs.benching.photographs import write_photographs
from vitrail.jobs.options import named_values
from vitrail.jobs.progress import say
from vitrail.jobs.settings import ImageSize
from vitrail.nn.embed import as_pair
from vitrail.speed.bench import Comparison, Make, Missing, Report, answer, compare, draw, footnotes, interleave, table
from vitrail.speed.bench.machine import cores, machine
from vitrail.speed.bench.work import Answer

PHOTOGRAPHS = 256


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Time Vitrail beside other libraries: same model, same random weights, a process each, interleaved rounds.

    A figure is the median over the rounds of a turn's mean, "takes" the median of the ratios to Vitrail within a round,
    "error" the relative L2 distance to float32: of what comes out, or in training of the patch projection's gradient.
    """

    models: Positional[tuple[str, ...]] = ()
    """Architectures (vitrail list models); a table for each. Left out: vit_base_patch16_224."""
    task: Task = "inference"
    """inference; training and mae: forward, backward, clipping, fused AdamW; input: JPEG files to training crops."""
    against: tuple[str, ...] = ()
    """Whom to set beside Vitrail, with :fp32 or :bf16 behind a name for another number format. Left out: all."""
    batch_size: tuple[int, ...] = (16,)
    """Pictures at once; a table for each."""
    image_size: ImageSize | None = None
    """Pixels, one number or height and width. Left out: what the model was made for."""
    model_options: tuple[str, ...] = ()
    """Further fields of the architecture, as depth=6 embed_dim=192."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto takes bf16 where the hardware proves faster with it."""
    rounds: int = 5
    """That count; one before them does not."""
    turn: float = 1.0
    """Seconds that everyone works in a round, at least one call."""
    threads: int | None = None
    """Of every process. Left out: all cores; for input one."""
    timeout: float = 300.0
    """Most seconds for getting ready (loading, compiling) and for a turn; who takes longer is left out."""
    data: Path | None = None
    """Pictures for input. Left out: crops of scikit-learn's photographs, 500x375."""
    json: Path | None = None
    """Write all figures into this file."""
    plot: Path | None = None
    """Draw them into this file (.png, .pdf, .svg)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name, value, least in (("rounds", self.rounds, 1), ("batch_size", min(self.batch_size, default=0), 1)):
            if value < least:
                raise VitrailError(f"{name} must be at least {least}, not {value}")
        if self.threads is not None and self.threads < 1:
            raise VitrailError(f"threads must be at least 1, not {self.threads}")
        if not (self.turn >= 0 and self.timeout > 0):
            raise VitrailError(f"turn ({self.turn}) and timeout ({self.timeout}) are seconds")
        for name in self.against:
            parse(name, self.task)


def bench(config: BenchConfig) -> list[Comparison]:
    """Measure, print and write; the figures of every model and batch size, in order.

    Raises:
        VitrailError: an unknown model or contestant, one that does not fit the task, a file that cannot be written.
    """
    comparisons: list[Comparison] = []
    console = Console(soft_wrap=True)
    for comparison in _comparisons(config):
        comparisons.append(comparison)
        console.print(table(comparison))
        for note in footnotes(comparison):
            console.print(note, style="dim", highlight=False, markup=False)
        if config.json is not None:
            write_json(config.json, {"comparisons": [one.to_dict() for one in comparisons]})
        if config.plot is not None:
            draw(comparisons, config.plot)
    return comparisons


def command_of(config: BenchConfig) -> str:
    """The command that measures the same."""
    words = ["vitrail", "bench", *config.models]
    for field in fields(config):
        value = vars(config)[field.name]
        if field.name in ("models", "json", "plot") or value == field.default:
            continue
        parts = value if isinstance(value, tuple) else (value,)
        words += [f"--{field.name.replace('_', '-')}", *map(str, parts)]
    return shlex.join(words)


def _comparisons(config: BenchConfig) -> Iterator[Comparison]:
    precision = choose_precision(config.precision, torch.device("cpu")).name
    threads = config.threads or (1 if config.task == "input" else cores())
    img_size = None if config.image_size is None else as_pair(config.image_size)
    models = ("",) if config.task == "input" else config.models or ("vit_base_patch16_224",)
    names = config.against or tuple(known(config.task))
    libraries: set[Library] = {one.weights for name in names if (one := parse(name, config.task)[0]).weights}
    for model in models:
        with tempfile.TemporaryDirectory(prefix="vitrail-bench-") as scratch:
            case = Case(Path(scratch), config.task, 0, img_size or (224, 224), 0, precision, threads)
            without: dict[Library, str] = {}
            if config.task == "input":
                case = replace(case, folder=config.data or _photographs(Path(scratch)))
            else:
                options = named_values(config.model_options, "model option")
                made, without = lay_out(model, options, img_size, libraries, Path(scratch))
                if config.task == "training" and made.num_classes < 2:
                    raise VitrailError(f"{model} has no classifier to train: add --model-options num_classes=1000")
                case = replace(case, img_size=made.img_size, num_classes=made.num_classes)
            for batch_size in config.batch_size:
                yield _compare(config, model, replace(case, batch_size=batch_size), names, without)


def _compare(
    config: BenchConfig, model: str, case: Case, names: tuple[str, ...], without: dict[Library, str]
) -> Comparison:
    """One table."""
    contestants: dict[str, Make] = {OURS: Maker(VITRAIL.tasks[case.task], case)}
    missing: list[Missing] = []
    for name in names:
        one, precision = parse(name, case.task)
        its_case = replace(case, precision=precision or case.precision)
        if packages := one.missing():
            missing.append(Missing(name, f"{', '.join(packages)} not installed"))
        elif one.weights in without:
            missing.append(Missing(name, without[one.weights]))
        else:
            contestants[name] = Maker(one.tasks[case.task], its_case)
    title = _title(" ".join((model, *config.model_options)), case)
    say(title)
    report = interleave(contestants, config.rounds, config.turn, config.timeout, case.threads, say)
    if OURS in report.failed:
        raise VitrailError(f"{title}: Vitrail itself failed: {report.failed[OURS]}")
    missing += [Missing(name, reason) for name, reason in report.failed.items()]
    return Comparison(
        title=title,
        rows=compare(report, _truth(config, case, report)),
        missing=tuple(missing),
        versions=_versions(report),
        threads=case.threads,
        machine=machine(),
        date=datetime.date.today().isoformat(),
        command=command_of(config),
    )


def _truth(config: BenchConfig, case: Case, report: Report) -> Answer | None:
    """The float32 answer: in training, Vitrail's own gradient."""
    if case.task == "input":
        return None
    if case.task != "inference" and case.precision == "fp32":
        return report.finished[OURS].answer
    function = "ours:reference" if case.task == "inference" else VITRAIL.tasks[case.task]
    return answer(Maker(function, replace(case, precision="fp32")), config.timeout, case.threads)


def _title(model: str, case: Case) -> str:
    height, width = case.img_size
    what = f"{case.task} at {height}x{width}, batch {case.batch_size}"
    return what if case.task == "input" else f"{model}, {what}, {case.precision}"


def _versions(report: Report) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in report.finished.values():
        found |= one.versions
    return found


def _photographs(folder: Path) -> Path:
    write_photographs(folder / "pictures", PHOTOGRAPHS)
    return folder / "pictures"
