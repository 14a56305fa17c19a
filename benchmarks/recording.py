"""What recording attention costs: forward passes with and without it, interleaved, and before and after it.

Run: python benchmarks/recording.py [--model vit_base_patch16_224] [--batch 1] [--rounds 9] [--queries 0] [--layers -1]

Prints the median seconds of each, by the clock and of all cores, and the ratio to a plain forward pass. On a machine
that others use too, only the seconds of the cores say something.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import vitrail
from vitrail.explanations import record


def plain(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """A forward pass."""

    def run() -> None:
        with torch.no_grad():
            model(images)

    return run


def recorded(model: nn.Module, images: Tensor, layers: list[int] | None, queries: list[int]) -> Callable[[], None]:
    """The same, with the rows of some tokens."""

    def run() -> None:
        with torch.no_grad(), record(model, layers, queries):
            model(images)

    return run


CLOCKS = {"s by the clock": time.perf_counter, "s of all cores": time.process_time}


def seconds_of(run: Callable[[], None]) -> list[float]:
    """By every clock."""
    start = [clock() for clock in CLOCKS.values()]
    run()
    return [clock() - begun for clock, begun in zip(CLOCKS.values(), start, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--queries", type=int, nargs="+", default=[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[-1])
    given = parser.parse_args()
    torch.manual_seed(0)
    model = vitrail.create_model(given.model).eval()
    (images,) = model.example_inputs(given.batch)
    runs = {
        "plain": plain(model, images),
        f"layers {given.layers}, queries {given.queries}": recorded(model, images, given.layers, given.queries),
        f"all layers, queries {given.queries}": recorded(model, images, None, given.queries),
        "plain again": plain(model, images),
    }
    seconds: dict[str, list[list[float]]] = {name: [] for name in runs}
    for turn in range(given.rounds + 1):
        names = list(runs)
        # Every round begins elsewhere, so that none always follows the same one.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            took = seconds_of(runs[name])
            if turn:
                seconds[name].append(took)
    left = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())
    titles = [title for clock in CLOCKS for title in (clock, "of plain")]
    table = Table("forward pass", *titles, title=f"{given.model}, batch {given.batch}")
    medians = {
        name: [statistics.median(times) for times in zip(*rounds, strict=True)] for name, rounds in seconds.items()
    }
    for name, row in medians.items():
        cells = [(f"{one:.4f}", f"{one / other:.3f}") for one, other in zip(row, medians["plain"], strict=True)]
        table.add_row(name, *(cell for pair in cells for cell in pair))
    console = Console()
    console.print(table)
    console.print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; hooks left behind: {left}")


if __name__ == "__main__":
    main()
