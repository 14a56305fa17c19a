"""One model in torch, OpenVINO and onnxruntime: pictures a second, and how far each is from float32.

Run:   python benchmarks/backends.py --prepare           (makes the graphs, the one in 8 bits too; takes minutes)
       python benchmarks/backends.py --case vit_b_1      (then vit_b_16, dinov2_s_16: each under 100 seconds)

ViT-B/16 has fresh weights, DINOv2-S its published ones where they are installed. The 8-bit graphs are calibrated on
crops of the two photographs that scikit-learn brings; errors are relative L2 of the class token on other crops. All
configurations take turns in one process; medians. Graphs lie in the cache of graphs and in --out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from timing import interleaved
from torch import Tensor

from vitrail.engine import choose_precision
from vitrail.export import PLANS, OnnxRunner, OpenVINORunner, quantise_graph, read_quantised, write_quantised
from vitrail.jobs.backend import make_graph
from vitrail.jobs.models import open_model
from vitrail.models import Backbone
from vitrail.speed.malloc import keep_freed_memory
from vitrail.weights import Artefact

CALIBRATION = 64


@dataclass(frozen=True)
class Case:
    model: str
    batch: int
    pretrained: bool


CASES = {
    "vit_b_1": Case("vit_base_patch16_224", 1, False),
    "vit_b_16": Case("vit_base_patch16_224", 16, False),
    "dinov2_s_16": Case("vit_small_patch14_dinov2", 16, True),
}


def artefact_of(case: Case) -> Artefact:
    """The case's model at 224."""
    torch.manual_seed(0)
    return open_model(case.model, {"img_size": (224, 224)}, pretrained=case.pretrained)


def crops(artefact: Artefact, count: int, seed: int) -> Tensor:
    """Crops of 224 to 400 pixels of two photographs, as the model reads them."""
    pictures = [torch.from_numpy(pixels.copy()).permute(2, 0, 1) for pixels in load_sample_images().images]
    generator = torch.Generator().manual_seed(seed)

    def draw(most: int) -> int:
        return int(torch.randint(most + 1, (), generator=generator))

    found = []
    for number in range(count):
        side = 224 + draw(176)
        picture = pictures[number % len(pictures)]
        top, left = draw(picture.shape[1] - side), draw(picture.shape[2] - side)
        found.append(artefact.preprocess(picture[:, top : top + side, left : left + side]))
    return torch.stack(found)


def eight_bits(case: Case, out: Path) -> Path:
    return out / f"{case.model}-int8"


def prepare(out: Path) -> None:
    for case in {case.model: case for case in CASES.values()}.values():
        started = time.perf_counter()
        artefact = artefact_of(case)
        graph, facts, _ = make_graph(artefact, "openvino")
        if not eight_bits(case, out).exists():
            made = quantise_graph(graph, crops(artefact, CALIBRATION, 0), PLANS[0])
            write_quantised(made, facts, {"calibrated_on": CALIBRATION}, eight_bits(case, out))
        print(f"{case.model}: {time.perf_counter() - started:.0f} s", flush=True)


def runners(case: Case, artefact: Artefact, out: Path) -> dict[str, Callable[[Tensor], Tensor]]:
    graph, _, _ = make_graph(artefact, "openvino")
    model, device = artefact.model.eval(), torch.device("cpu")
    assert isinstance(model, Backbone)
    bf16 = choose_precision("bf16", device)

    def plain(images: Tensor) -> Tensor:
        with torch.inference_mode(), bf16.autocast(device):
            return model.features(images).values[:, 0].float()

    loaded = {
        "OpenVINO bf16": OpenVINORunner(graph, "bf16", case.batch),
        "onnxruntime fp32": OnnxRunner(graph),
        "OpenVINO int8": OpenVINORunner(read_quantised(eight_bits(case, out)).graph, "auto", case.batch),
    }
    return {"torch bf16 (autocast)": plain} | {
        name: lambda images, runner=runner: runner(images, ("class_token",))[0] for name, runner in loaded.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("runs/backends"))
    args = parser.parse_args()
    keep_freed_memory()
    if args.prepare or args.case is None:
        prepare(args.out)
        return
    case = CASES[args.case]
    artefact = artefact_of(case)
    images = crops(artefact, case.batch, 1)
    calls = runners(case, artefact, args.out)
    with torch.inference_mode():
        exact = artefact.backbone.features(images).values[:, 0]
    errors = {name: float((call(images) - exact).norm() / exact.norm()) for name, call in calls.items()}
    seconds = interleaved({name: lambda call=call: call(images) for name, call in calls.items()}, args.rounds)
    table = Table("", "pictures/s", "of the first", "relative L2 error")
    first = next(iter(seconds.values()))
    for name, spent in seconds.items():
        table.add_row(name, f"{case.batch / spent:.1f}", f"{first / spent:.2f}x", f"{errors[name]:.4f}")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "openvino", "onnxruntime", "nncf"))
    Console().print(f"{case.model} at 224, batch {case.batch}, {torch.get_num_threads()} threads; {libraries}", table)


if __name__ == "__main__":
    main()
