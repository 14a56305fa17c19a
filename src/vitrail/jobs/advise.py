"""``vitrail advise``: a model and a recipe for a task, with the reasons; the rules stand in ``advise_rules``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.markup import escape

from vitrail.contracts import VitrailError
from vitrail.jobs.advise_rules import CHOICES, RULES, Device, Situation, Task

NO_WEIGHTS = "none: from scratch"
NO_RECIPE = "none: the verb's defaults"


@dataclass(frozen=True, kw_only=True)
class AdviseConfig:
    """Advice by rules, from what the literature and this project's own measurements say; nothing is run or downloaded.

    Each rule that decided something is printed with its condition, its reason and where that is from.
    """

    task: Task
    """What is wanted of the pictures; zero-shot is classification by words, without training."""
    images: int
    """How many pictures there are: labelled ones to learn from, or else those to work on."""
    device: Device
    """What it will run on."""
    image_size: str = "224"
    """Pixels of the pictures as they are: one number, or HxW."""
    labels_per_class: int | None = None
    """Labelled pictures of a typical class, where that is known."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class Reason:
    """Why something was chosen.

    Attributes:
        chose: names of the fields that this decided.
        condition: when the rule holds.
        reason, source: what stands behind it.
    """

    chose: tuple[str, ...]
    condition: str
    reason: str
    source: str


@dataclass(frozen=True)
class Advice:
    """What to take.

    Attributes:
        model: name of the architecture (``vitrail list models``).
        weights: name of its published weights (``vitrail list weights``), None where there are none to start from.
        recipe: name of a recipe (``vitrail list recipes``), None for the defaults of the verb.
        image_size: pixels that the model should see; None where it prepares pictures of any size itself.
        command: what to run.
        reasons: of the rules that decided, in their order.
    """

    model: str
    weights: str | None
    recipe: str | None
    image_size: int | None
    command: str
    reasons: tuple[Reason, ...]


def advise(config: AdviseConfig) -> Advice:
    """Print a model and a recipe with their reasons, and give them.

    Raises:
        VitrailError: numbers that describe no pictures.
    """
    advice = choose(_situation(config))
    if config.json:
        print(json.dumps(asdict(advice), indent=2, ensure_ascii=False))
    else:
        _show(advice)
    return advice


def choose(situation: Situation) -> Advice:
    """Go down the table: a rule that holds decides whatever no rule above it has decided."""
    chosen: dict[str, str | int | None] = {}
    reasons: list[Reason] = []
    for rule in RULES:
        fresh = {name: value for name, value in rule.choice.items() if name not in chosen}
        if fresh and rule.when.holds(situation):
            chosen |= fresh
            reasons.append(Reason(tuple(fresh), str(rule.when), rule.reason, rule.source))
    open_ = [name for name in CHOICES if name not in chosen]
    if open_:
        raise VitrailError(f"no rule says which {', '.join(open_)} to take for {situation}")
    command = str(chosen["command"]).format(**{**chosen, "weights": chosen["weights"] or chosen["model"]})
    size = chosen["image_size"]
    return Advice(
        model=str(chosen["model"]),
        weights=_name(chosen["weights"]),
        recipe=_name(chosen["recipe"]),
        image_size=None if size is None else int(size),
        command=command,
        reasons=tuple(reasons),
    )


def _name(value: str | int | None) -> str | None:
    return None if value is None else str(value)


def _situation(config: AdviseConfig) -> Situation:
    sides = config.image_size.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdigit() and int(side) > 0 for side in sides):
        raise VitrailError(f"image-size {config.image_size!r} is neither a number of pixels nor HxW, such as 480x640")
    if config.images < 0 or (config.labels_per_class is not None and config.labels_per_class < 0):
        raise VitrailError("images and labels-per-class cannot be negative")
    return Situation(
        task=config.task,
        images=config.images,
        side=min(int(side) for side in sides),
        device=config.device,
        labels_per_class=config.labels_per_class,
    )


def _show(advice: Advice) -> None:
    console = Console(soft_wrap=True, highlight=False)
    rows = {
        "model": advice.model,
        "weights": advice.weights or NO_WEIGHTS,
        "recipe": advice.recipe or NO_RECIPE,
        "image size": "as it is" if advice.image_size is None else str(advice.image_size),
        "run": advice.command,
    }
    for title, value in rows.items():
        console.print(f"[bold]{title:<12}[/]{escape(value)}")
    console.print("\n[bold]because[/]")
    for reason in advice.reasons:
        decided = ", ".join(name.replace("_", " ") for name in reason.chose)
        console.print(f"  [bold]{decided}[/] ({escape(reason.condition)}): {escape(reason.reason)}")
        console.print(f"    [dim]{escape(reason.source)}[/]")
