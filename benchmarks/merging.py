"""What token merging saves: forward passes at several counts, interleaved.

Run: python benchmarks/merging.py [--model vit_small_patch14_dinov2] [--image-size 518] [--batch 4] [--rounds 5]
     [--counts 0 32 64 96] [--precision bf16]

Models are prepared as the verbs do it. Prints pictures a second, the ratio to the first and how far the class token and
the mean of the patches are from the first one's in the same precision (relative L2; on noise, which merges worse than
photographs do). The weights are the real ones where they are installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from timing import interleaved
from torch import Tensor

import vitrail
from vitrail.jobs.models import open_model
from vitrail.models import Backbone
from vitrail.speed import Prepared, merged, prepare
from vitrail.speed.malloc import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--image-size", type=int, default=518)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 32, 64, 96])
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    given = parser.parse_args()
    keep_freed_memory()  # As the command line does.
    torch.manual_seed(0)
    model = open_model(given.model, {"img_size": given.image_size}).backbone.eval()
    (images,) = model.example_inputs(given.batch)

    def run(ready: Prepared[Backbone]) -> Tensor:
        with ready.context():
            return ready.model.features(images).values

    models = {
        str(count): prepare(merged(model, count), torch.device("cpu"), given.precision, given.batch)
        for count in given.counts
    }
    runs: dict[str, Callable[[], object]] = {name: partial(run, call) for name, call in models.items()}
    seconds = interleaved(runs, given.rounds)
    plain = run(models[str(given.counts[0])])
    table = Table("patches a block", "pictures/s", "of plain", "class token", "mean of patches", title=given.model)
    for name, took in seconds.items():
        values = run(models[name])
        errors = [float((of(values) - of(plain)).norm() / of(plain).norm()) for of in (class_token, mean)]
        rate, gain = given.batch / took, next(iter(seconds.values())) / took
        table.add_row(name, f"{rate:.2f}", f"{gain:.2f}", *(f"{error:.3f}" for error in errors))
    console = Console()
    console.print(table)
    console.print(
        f"{given.image_size} pixels, batch {given.batch}, {given.precision}, PyTorch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, Vitrail {vitrail.__version__}"
    )


def class_token(values: Tensor) -> Tensor:
    return values[:, 0].float()


def mean(values: Tensor) -> Tensor:
    return values[:, 1:].float().mean(dim=1)


if __name__ == "__main__":
    main()
