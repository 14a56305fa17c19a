"""What hiding patches saves: MAE's training step beside the same step with all patches visible, and Transformers'.

Run: python benchmarks/mae_step.py [--rounds 7] [--batch 32] [--decoder 192 4 3] [--attention eager]

ViT-S/16 at 224, bf16 autocast, 75 % hidden; forward, backward, clipping and a fused AdamW step, the same random weights
in both libraries. The rounds are interleaved; medians count. Peak memory is that of a process of its own for each.
The decoder is the one that VideoMAE has for this encoder: MAE's own, 512 wide and 8 deep, has more work to do than
ViT-S itself, and is timed by --decoder 512 8 16.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table
from timing import interleaved
from torch import Tensor, nn

from vitrail.contracts import Batch, Progress
from vitrail.data import Preprocess
from vitrail.methods.mae import KEEP, MAE
from vitrail.models import MAEConfig, MaskedAutoencoder
from vitrail.nn.masking import random_keep
from vitrail.speed.malloc import keep_freed_memory
from vitrail.weights import Artefact, convert

GRID = (14, 14)
STEPS_FOR_MEMORY = 3
NAMES = ("vitrail", "all visible", "transformers")


def autoencoder(decoder: list[int]) -> MaskedAutoencoder:
    """ViT-S/16 with a decoder of a width, depth and number of heads."""
    torch.manual_seed(0)
    sizes = {"decoder_embed_dim": decoder[0], "decoder_depth": decoder[1], "decoder_num_heads": decoder[2]}
    return MaskedAutoencoder(MAEConfig(embed_dim=384, depth=12, num_heads=6, **sizes))


def of_transformers(decoder: list[int], attention: str) -> nn.Module:
    """The same weights there, with the attention that was asked for."""
    with tempfile.TemporaryDirectory() as folder:
        Artefact(autoencoder(decoder), (), Preprocess()).save_pretrained(Path(folder) / "vitrail")
        convert(Path(folder) / "vitrail", Path(folder) / "hf", to="transformers")
        model = transformers.ViTMAEForPreTraining.from_pretrained(
            Path(folder) / "hf", attn_implementation=attention, norm_pix_loss=True, mask_ratio=0.75
        )
    assert model.config._attn_implementation == attention, model.config._attn_implementation
    return model


def step(model: nn.Module, loss_of: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward, backward, clipping and a fused AdamW step."""
    model.train()
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=1e-5, fused=True)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0, foreach=False)
        optimiser.step()
        optimiser.zero_grad()

    return run


def prepared(name: str, batch: int, decoder: list[int], attention: str) -> Callable[[], None]:
    """A step by its name."""
    images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    if name == "transformers":
        theirs = of_transformers(decoder, attention)
        return step(theirs, lambda: theirs(images).loss)
    method = MAE(autoencoder(decoder))
    if name == "all visible":
        model = method.model
        return step(method, lambda: (model(images).float() - model.targets(images)).square().mean())
    progress = Progress(0, 1, 0, 1)

    def masked() -> Tensor:
        keep = random_keep(batch, GRID, 0.75)
        return method(Batch(images, None, torch.arange(batch), (), {KEEP: keep}), progress)["loss"]

    return step(method, masked)


def peak_memory(name: str, options: argparse.Namespace) -> float:
    """Megabytes that a process which does nothing else has held at most, above what it held before its steps."""
    command = [sys.executable, __file__, "--alone", name, "--batch", str(options.batch)]
    command += ["--attention", options.attention, "--decoder", *map(str, options.decoder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def alone(options: argparse.Namespace) -> float:
    """The measurement in that process."""
    run = prepared(options.alone, options.batch, options.decoder, options.attention)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(STEPS_FOR_MEMORY):
        run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    keep_freed_memory()  # As the command line does, here for all three.
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--decoder", type=int, nargs=3, default=[192, 4, 3], metavar=("WIDTH", "DEPTH", "HEADS"))
    parser.add_argument("--attention", default="eager", choices=("eager", "sdpa"), help="of Transformers")
    parser.add_argument("--alone", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(alone(options))
        return
    memory = {name: peak_memory(name, options) for name in NAMES}
    runs = {name: prepared(name, options.batch, options.decoder, options.attention) for name in NAMES}
    seconds = interleaved(runs, options.rounds)
    table = Table("step", "median, ms", "vitrail is faster", "peak memory of the steps, MB")
    for name in NAMES:
        ratio = seconds[name] / seconds["vitrail"]
        table.add_row(name, f"{1000 * seconds[name]:.0f}", f"{ratio:.2f}x", f"{memory[name]:.0f}")
    width, depth, heads = options.decoder
    what = f"ViT-S/16, decoder {width} wide, {depth} deep, {heads} heads, batch {options.batch}, bf16 autocast"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__} with {options.attention} attention"
    Console().print(table, what, versions, f"{torch.get_num_threads()} threads, {platform.platform()}", sep="\n")


if __name__ == "__main__":
    main()
