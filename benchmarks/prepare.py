"""A prepared model beside plain autocast, timm and OpenVINO: same random weights, interleaved rounds, one case a run.

Run: python benchmarks/prepare.py --case vit_base_16 [--rounds 7] [--json FILE] [--without fp32 openvino …]

OpenVINO runs the model's own graph in bf16 with both of its hints, where it is installed. Errors are relative L2
against Vitrail in float32. Freed memory is kept for all, as the command line does. Ratios within one run count.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.table import Table
from timing import interleaved
from torch import Tensor, nn

import vitrail
from vitrail.data import Preprocess
from vitrail.models import Model
from vitrail.nn import LayerScale
from vitrail.nn.attention import attention_kernel
from vitrail.speed import prepare
from vitrail.speed.malloc import keep_freed_memory
from vitrail.weights import Artefact, convert

CASES: dict[str, tuple[str, int, int]] = {
    "vit_base_1": ("vit_base_patch16_224", 224, 1),
    "vit_base_16": ("vit_base_patch16_224", 224, 16),
    "vit_base_64": ("vit_base_patch16_224", 224, 64),
    "dinov2_224": ("vit_small_patch14_dinov2", 224, 16),
    "dinov2_518": ("vit_small_patch14_dinov2", 518, 4),
    "swin_16": ("swin_tiny_patch4_window7_224", 224, 16),
}
"""Model, side of the picture in pixels, batch."""

Run = Callable[[], Tensor]


def models(name: str, side: int) -> tuple[Model, nn.Module]:
    """The same random weights in both libraries."""
    torch.manual_seed(0)
    ours = vitrail.create_model(name, img_size=side).eval()
    with torch.no_grad():
        for part in ours.modules():
            if isinstance(part, LayerScale):
                # As large as trained ones: at their start they would hide what the blocks do.
                part.gamma.uniform_(0.05, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        Artefact(ours, (), Preprocess(size=(side, side))).save_pretrained(Path(folder) / "vitrail")
        convert(Path(folder) / "vitrail", Path(folder) / "timm", to="timm")
        weights = str(Path(folder) / "timm" / "model.safetensors")
        theirs = timm.create_model(name, checkpoint_path=weights, img_size=side, num_classes=ours.num_classes)
    return ours, theirs.eval()


def torch_runs(ours: Model, theirs: nn.Module, images: Tensor) -> dict[str, Run]:
    """What runs on torch."""

    def run(model: nn.Module, x: Tensor, autocast: bool = False) -> Run:
        def once() -> Tensor:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return model(x)

        return once

    ready = prepare(ours, images.device, "bf16", len(images))
    Console().print(ready.choice)
    half = timm_in_bf16(theirs)
    return {
        "prepared": lambda: ready(images),
        "autocast": run(ours, images, autocast=True),
        "timm bf16": run(half, images.bfloat16()),
        "timm autocast": run(theirs, images, autocast=True),
        "timm fp32": run(theirs, images),
    }


def timm_in_bf16(model: nn.Module) -> nn.Module:
    """A copy with its weights cast."""
    return copy.deepcopy(model).bfloat16()


def openvino_runs(model: Model, images: Tensor) -> dict[str, Run]:
    """The model's graph in OpenVINO, by both hints; the throughput hint is given its own number of requests."""
    import openvino

    with torch.no_grad(), attention_kernel("fused"):
        graph = openvino.convert_model(model, example_input=images)
    graph.reshape(list(images.shape))
    pixels = images.numpy()
    runs: dict[str, Run] = {}
    for hint in ("LATENCY", "THROUGHPUT"):
        options = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": hint}
        compiled = openvino.Core().compile_model(graph, "CPU", options)

        def run(compiled: openvino.CompiledModel = compiled) -> Tensor:
            return torch.from_numpy(compiled(pixels)[0])

        runs[f"openvino {hint.lower()}"] = run
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--without", nargs="*", default=(), help="words; runs with one in their names are left out")
    options = parser.parse_args()
    keep_freed_memory()
    name, side, batch = CASES[options.case]
    ours, theirs = models(name, side)
    torch.manual_seed(1)
    images = torch.randn(batch, 3, side, side)
    with torch.inference_mode():
        exact = ours(images)
    runs = torch_runs(ours, theirs, images)
    if importlib.util.find_spec("openvino"):
        runs |= openvino_runs(ours, images)
    runs = {key: run for key, run in runs.items() if not any(word in key for word in options.without)}
    errors = {key: float((run().float() - exact).norm() / exact.norm()) for key, run in runs.items()}
    seconds = interleaved({key: (lambda run=run: void(run)) for key, run in runs.items()}, options.rounds)
    table = Table("run", "pictures/s", "prepared is quicker by", "error")
    for key, value in seconds.items():
        table.add_row(key, f"{batch / value:.2f}", f"{value / seconds['prepared']:.2f}x", f"{errors[key]:.5f}")
    versions = f"torch {torch.__version__}, timm {timm.__version__}, {torch.get_num_threads()} threads"
    Console().print(table, f"{options.case}: {name} at {side}, batch {batch}; {versions}; {platform.platform()}")
    if options.json:
        rates = {key: {"pictures_per_second": batch / value, "error": errors[key]} for key, value in seconds.items()}
        options.json.write_text(json.dumps({"case": options.case, "versions": versions, "runs": rates}, indent=1))


def void(run: Run) -> None:
    run()


if __name__ == "__main__":
    main()
