"""One model in torch, OpenVINO and onnxruntime: pictures a second, and how far each is from float32.

Run:   python benchmarks/backends.py --prepare           (makes the graphs, the one in 8 bits too; takes minutes)
       python benchmarks/backends.py --case vit_b_1      (then vit_b_16, dinov2_s_16: each under 100 seconds)

ViT-B/16 has fresh weights, DINOv2-S its published ones where they are installed. The 8-bit graphs, Vitrail's and the
one that NNCF makes as its documentation says, of the graph of all tokens that exporters write, are calibrated on the
same crops of the two photographs that scikit-learn brings; all give the class token, as ``vitrail embed`` asks for it.
Errors are relative L2 of the class token on other crops. All configurations take turns in one process; medians.
Graphs lie in the cache of graphs and in --out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nncf
import openvino
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from timing import interleaved
from torch import Tensor

from vitrail.graphs import (
    PLANS,
    Facts,
    OnnxRunner,
    OpenVINORunner,
    Output,
    quantise_graph,
    read_quantised,
    write_quantised,
)
from vitrail.jobs.backend import make_graph
from vitrail.jobs.models import open_model
from vitrail.speed import prepare
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


def nncf_defaults(graph: Path, pictures: Tensor) -> Any:
    """8 bits as NNCF's documentation makes them of a transformer."""
    dataset = nncf.Dataset([picture.unsqueeze(0).numpy() for picture in pictures])
    model = openvino.Core().read_model(graph)
    return nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(pictures))


def ours(graph: Path, pictures: Tensor) -> Any:
    """8 bits as ``vitrail quantise`` makes them first."""
    return quantise_graph(graph, pictures, PLANS[0])


MAKERS: dict[str, Callable[[Path, Tensor], Any]] = {"vitrail quantise": ours, "NNCF as it comes": nncf_defaults}
CLASS_TOKEN: tuple[Output, ...] = ("class_token",)
OUTPUTS: dict[str, tuple[Output, ...]] = {"vitrail quantise": CLASS_TOKEN, "NNCF as it comes": ()}


def graph_in_8_bits(name: str, case: Case, out: Path) -> Path:
    return out / f"{case.model}-{name.replace(' ', '-')}"


def make_graphs(out: Path) -> None:
    for case in {case.model: case for case in CASES.values()}.values():
        artefact = artefact_of(case)
        for name in MAKERS:
            graph, facts, _ = make_graph(artefact, "openvino", OUTPUTS[name])
            make_one(name, case, out, graph, facts, crops(artefact, CALIBRATION, 0))


def make_one(name: str, case: Case, out: Path, graph: Path, facts: Facts, pictures: Tensor) -> None:
    folder = graph_in_8_bits(name, case, out)
    if not folder.exists():
        started = time.perf_counter()
        write_quantised(MAKERS[name](graph, pictures), facts, {"calibrated_on": CALIBRATION}, folder)
        print(f"{folder.name}: {time.perf_counter() - started:.0f} s", flush=True)


def contestants(case: Case, artefact: Artefact, out: Path) -> dict[str, Callable[[Tensor], Tensor]]:
    graph, _, _ = make_graph(artefact, "openvino", CLASS_TOKEN)
    ready = prepare(artefact.backbone, torch.device("cpu"), "bf16", case.batch)

    def torch_bf16(images: Tensor) -> Tensor:
        with ready.context():
            return ready.model.leading(images, 1).values[:, 0].float()

    loaded: dict[str, OnnxRunner | OpenVINORunner] = {
        "OpenVINO bf16": OpenVINORunner(graph, "bf16", case.batch),
        "onnxruntime fp32": OnnxRunner(graph),
    }
    for name in MAKERS:
        made = read_quantised(graph_in_8_bits(name, case, out)).graph
        loaded[f"OpenVINO int8, {name}"] = OpenVINORunner(made, "auto", case.batch)
    return {"torch bf16": torch_bf16} | {
        name: lambda images, runner=runner: runner(images, CLASS_TOKEN)[0] for name, runner in loaded.items()
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
        make_graphs(args.out)
        return
    case = CASES[args.case]
    artefact = artefact_of(case)
    images = crops(artefact, case.batch, 1)
    calls = contestants(case, artefact, args.out)
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
