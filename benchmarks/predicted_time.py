"""What `vitrail plan --time` predicts beside what the prepared model takes, in one process.

Run: python benchmarks/predicted_time.py [--precision bf16] [--rounds 3] [--only ViT-S]

None of the models was used to set a constant of the prediction: there are none, only the two rates that it measures.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from timing import interleaved

from vitrail.models import build, config_of
from vitrail.speed import calibrate, predict_time, prepare, prepared_attention
from vitrail.speed.bench import machine
from vitrail.speed.malloc import keep_freed_memory

CASES = {
    "ViT-S/16, 1": ("vit_small_patch16_224", 224, 1),
    "ViT-S/16, 16": ("vit_small_patch16_224", 224, 16),
    "ViT-B/16, 1": ("vit_base_patch16_224", 224, 1),
    "ViT-B/16, 16": ("vit_base_patch16_224", 224, 16),
    "DINOv2 ViT-S/14 at 518, 4": ("vit_small_patch14_dinov2", 518, 4),
    "Swin-T, 16": ("swin_tiny_patch4_window7_224", 224, 16),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    given = parser.parse_args()
    keep_freed_memory()

    rates, attention = calibrate(given.precision), prepared_attention(given.precision)
    runs, expected = {}, {}
    for name, (model_name, side, batch) in CASES.items():
        if given.only in name:
            config = config_of(model_name, {"img_size": side})
            model = build(config)
            prepared = prepare(model, torch.device("cpu"), given.precision, batch)
            runs[name] = partial(prepared, *model.example_inputs(batch))
            expected[name] = predict_time(config, rates, name, None, batch, given.precision, attention).inference
    seconds = interleaved(runs, given.rounds)
    table = Table("model, batch", "predicted, ms", "measured, ms", "predicted / measured", box=None)
    for name, took in seconds.items():
        table.add_row(name, f"{1e3 * expected[name]:.1f}", f"{1e3 * took:.1f}", f"{expected[name] / took:.2f}")
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"{given.precision}; {rates}; {torch.get_num_threads()} threads; torch {torch.__version__}")
    console.print(machine())


if __name__ == "__main__":
    main()
