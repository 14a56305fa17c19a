"""`vitrail embed` over a folder of JPEGs beside a plain Transformers script doing the same, and the model alone.

Run: python benchmarks/embed_folder.py [--count 2000] [--rounds 1] [--model vit_small_patch14_dinov2]

The pictures are seeded crops of scikit-learn's photographs, 500x375. Both scripts are processes of their own; start-up
(importing, loading) is measured on two pictures and told apart. The model's own rate is that of batches that are there
already, as `vitrail bench` times it. Weights are random, the same for both.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from vitrail.engine import choose_precision
from vitrail.jobs.benching.case import Case, lay_out
from vitrail.jobs.benching.contestants import VITRAIL, Maker
from vitrail.jobs.benching.photographs import write_photographs
from vitrail.jobs.options import named_values
from vitrail.speed.bench import interleave, machine
from vitrail.speed.bench.comparison import relative_error
from vitrail.speed.bench.machine import cores

BATCH = 32
SIDE = 224
FEW = 2
Command = Callable[[Path, Path], list[str]]


def commands(weights: Path) -> dict[str, Command]:
    """From a folder and a file to what is run."""
    script = Path(__file__).with_name("embed_transformers.py")
    return {
        "vitrail embed": lambda folder, out: [
            *(sys.executable, "-m", "vitrail", "embed", str(folder), "--model", str(weights / "vitrail")),
            *("--batch-size", str(BATCH), "--out", f"{out}.parquet"),
        ],
        "Transformers": lambda folder, out: [
            *(sys.executable, str(script), str(folder), str(weights / "transformers"), f"{out}.npy"),
            *("--batch-size", str(BATCH)),
        ],
    }


def seconds_of(command: list[str]) -> float:
    """By the clock, of a process from its start to its end."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def model_rate(weights: Path, rounds: int) -> float:
    """Pictures per second of the model alone."""
    precision = choose_precision("auto", torch.device("cpu")).name
    case = Case(weights, "inference", BATCH, (SIDE, SIDE), 0, precision, cores())
    report = interleave({"model": Maker(VITRAIL.tasks["inference"], case)}, max(3, rounds), 2.0)
    if report.failed:
        sys.exit(report.failed["model"])
    return BATCH / statistics.median(report.finished["model"].seconds)


def difference(out: Path) -> float:
    """Of the two sets of vectors."""
    vectors = pq.read_table(out.with_name("vitrail embed.parquet"))["embedding"].to_pylist()
    ours = np.array(vectors, dtype=np.float32)
    return relative_error(ours, np.load(out.with_name("Transformers.npy")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--options", nargs="*", default=[], help="fields of the architecture, as depth=2")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vitrail-embed-") as scratch:
        home = Path(scratch)
        write_photographs(home / "all", given.count)
        write_photographs(home / "few", FEW)
        (home / "weights").mkdir()
        options = named_values(given.options, "model option")
        _, without = lay_out(given.model, options, (SIDE, SIDE), {"transformers"}, home / "weights")
        if without:
            sys.exit(without["transformers"])
        runs = commands(home / "weights")
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        starts: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(given.rounds):
            for name, command in runs.items():
                starts[name].append(seconds_of(command(home / "few", home / f"few {turn} {name}")))
                (home / f"{name}.parquet").unlink(missing_ok=True)
                seconds[name].append(seconds_of(command(home / "all", home / name)))
        pure = model_rate(home / "weights", given.rounds)
        apart = difference(home / "any")
    table = Table("", "seconds", "of them starting", "pictures/s once started", "of the model alone", box=None)
    for name in runs:
        took, start = statistics.median(seconds[name]), statistics.median(starts[name])
        rate = (given.count - FEW) / max(1e-9, took - start)
        table.add_row(name, f"{took:.1f}", f"{start:.1f}", f"{rate:.1f}", f"{rate / pure:.2f}")
    table.add_row("the model alone", "", "", f"{pure:.1f}", "1")
    ratio = statistics.median(seconds["Transformers"]) / statistics.median(seconds["vitrail embed"])
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"{given.count} pictures: Transformers takes {ratio:.2f}x as long; vectors differ by {apart:.1e}")
    console.print(machine())


if __name__ == "__main__":
    main()
