"""On a GPU: how much of its peak a training step of ViT-L/16 reaches, and ViT-B/16's inference, beside compiled timm.

Run: python benchmarks/gpu.py [--task training inference] [--batch 128] [--steps 10] [--rounds 7]

Time is that between CUDA events around --steps calls, after warm-up, with fresh noise as pictures in every call, and
rounds in which everyone has a turn. The peak is what a large bfloat16 product reaches here and now, not what the data
sheet says. Model FLOPs are those of the forward pass, tripled for training (nothing that is computed again counts):
PaLM, Chowdhery et al. 2022, appendix B; of Vitrail those that it does, which are fewer. In small, on a CPU:
    python benchmarks/gpu.py --device cpu --model vit_tiny_patch16_224 --options depth=2 --backend eager --batch 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.engine import World, resolve_device
from vitrail.jobs.benching.case import lay_out
from vitrail.jobs.options import named_values
from vitrail.models import config_of
from vitrail.nn.embed import as_pair
from vitrail.nn.encoder import Encoder
from vitrail.speed import macs
from vitrail.speed.bench import machine
from vitrail.speed.cost import Shape
from vitrail.speed.predict_time import inference_operations

MODELS = {"training": "vit_large_patch16_224", "inference": "vit_base_patch16_224"}
PEAK_SIZE = {"cuda": 8192, "cpu": 512}
Run = Callable[[], object]


def peak(device: torch.device, steps: int) -> float:
    """FLOP/s of a large square product in bfloat16."""
    size = PEAK_SIZE[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = [seconds_of(lambda: left @ right, device, steps) for _ in range(5)]
    return 2 * size**3 / statistics.median(seconds)


def seconds_of(run: Run, device: torch.device, steps: int) -> float:
    """Of one call; the device is waited for at the end alone."""
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(steps):
            run()
        return (time.perf_counter() - started) / steps
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(steps):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / steps


def compiled_blocks(model: nn.Module, backend: str) -> nn.Module:
    """Each block compiled: they are alike, so that one compilation serves all, and the patches channels-last."""
    for stack in model.modules():
        if isinstance(stack, Encoder):
            for block in stack:
                block.compile(backend=backend)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def contestants(name: str, options: dict[str, Any], device: torch.device, backend: str) -> dict[str, nn.Module]:
    """The same weights in both libraries, compiled each in its way."""
    with tempfile.TemporaryDirectory() as scratch:
        ours, _ = lay_out(name, options, None, {"timm"}, Path(scratch))
        theirs = timm.create_model(f"local-dir:{Path(scratch) / 'timm'}", pretrained=True)
    theirs = theirs.to(device).to(memory_format=torch.channels_last)
    theirs.compile(backend=backend)
    return {"vitrail": compiled_blocks(ours.to(device), backend), "compiled timm": theirs}


def training(model: nn.Module, images: Callable[[], Tensor], labels: Tensor) -> Run:
    """Forward, backward, clipping and a fused AdamW step in bfloat16 autocast."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        with torch.autocast(labels.device.type, torch.bfloat16):
            loss = F.cross_entropy(model(images()).float(), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return run


def inference(model: nn.Module, images: Callable[[], Tensor], labels: Tensor) -> Run:
    """A forward pass with weights in bfloat16."""
    model.eval().to(torch.bfloat16)

    def run() -> None:
        with torch.inference_mode():
            model(images().to(torch.bfloat16))

    return run


TASKS = {"training": (training, 3), "inference": (inference, 1)}
"""What is done, and how many times a forward pass's arithmetic it is."""


def measure(task: str, given: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Median seconds of one call of each."""
    model, options = given.model or MODELS[task], named_values(given.options, "model option")
    config = config_of(model, options)
    make, _ = TASKS[task]
    labels = torch.arange(given.batch, device=device) % config.num_classes
    height, width = as_pair(config.img_size)

    def images() -> Tensor:
        noise = torch.randn(given.batch, 3, height, width, device=device)
        return noise.contiguous(memory_format=torch.channels_last)

    runs = {name: make(one, images, labels) for name, one in contestants(model, options, device, given.backend).items()}
    for run in runs.values():
        for _ in range(given.warm_up):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.rounds):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run, device, given.steps))
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--model", help="instead of ViT-L/16 and ViT-B/16")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="calls in a turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=5, help="calls that do not count; the first ones compile")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--options", nargs="*", default=[], help="fields of the architecture, as depth=2")
    parser.add_argument("--backend", default="inductor", help="of torch.compile; eager compiles nothing")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device = resolve_device(given.device, World())
    highest = peak(device, given.steps)
    table = Table("", "", "ms", "pictures/s", "of the peak", "takes", box=None)
    found: dict[str, object] = {"machine": machine(), "torch": torch.__version__, "peak": highest}
    for task in given.task:
        config = config_of(given.model or MODELS[task], named_values(given.options, "model option"))
        passes = TASKS[task][1]
        flops = {
            "vitrail": passes * inference_operations(Shape(config, None, given.batch, "bf16"), "fused").flops,
            "compiled timm": passes * 2 * macs(config) * given.batch,
        }
        seconds = measure(task, given, device)
        for name, took in seconds.items():
            ratio, share = took / seconds["vitrail"], flops[name] / took / highest
            figures = (f"{1e3 * took:.1f}", f"{given.batch / took:,.0f}", f"{share:.1%}", f"{ratio:.2f}x")
            table.add_row(task, name, *figures)
        found[task] = {"batch": given.batch, "model_flops": flops, "seconds": seconds}
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(
        f"{machine()}; torch {torch.__version__}; bf16 peak {highest / 1e12:,.1f} TFLOP/s, batch {given.batch}"
    )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
