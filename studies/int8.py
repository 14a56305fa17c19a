"""What 8 bits cost: a linear probe on a model's features in float32, bfloat16 and 8 bits, computed by OpenVINO.

Run: python studies/int8.py --out runs/int8
Quick look: python studies/int8.py --pictures 256 --out runs/look

DINOv2 ViT-S/14 at 224 on the 2,624 cells of ELPV. The 8-bit graph is calibrated on training pictures alone. Pictures
are encoded in a seeded order, block by block, each block by all three; so a run over fewer --pictures compares all
three on the same ones: by the usual held-out part, and in five folds over all pictures, whose differences are less a
matter of chance. Killed, the same command goes on with the next block.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from folds import lost_and_won, right_in_folds
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitrail.data import Source, open_data
from vitrail.graphs import PLANS, Facts, OpenVINORunner, Output, quantise_graph, read_quantised, write_quantised
from vitrail.jobs.backend import make_graph
from vitrail.jobs.embed import EmbedConfig
from vitrail.jobs.models import open_model
from vitrail.metrics import fit_linear_probe, score_classifier

OUTPUTS: tuple[Output, ...] = ("class_token", "patch_mean")
BLOCK, BATCH = 64, 16
KINDS = ("fp32", "bf16", "int8")
LABEL, HELD = "labels", "held_out"


def load_runners(args: argparse.Namespace, train: Source) -> tuple[dict[str, OpenVINORunner], Facts]:
    """The three graphs; the one in 8 bits is made once and kept in the study's folder."""
    config = EmbedConfig(source="", model=args.model, image_size=args.image_size)
    graph, facts, _ = make_graph(open_model(config.model, config.model_overrides()), "openvino")
    folder: Path = args.out / "graph"
    if not folder.exists():
        chosen = np.random.default_rng(args.seed).permutation(len(train))[: args.calibration]
        pictures = torch.stack([facts.preprocess(train.picture(int(index))) for index in chosen])
        write_quantised(quantise_graph(graph, pictures, PLANS[0]), facts, {"calibration": len(pictures)}, folder)
    runners = {
        "fp32": OpenVINORunner(graph, "fp32", BATCH),
        "bf16": OpenVINORunner(graph, "bf16", BATCH),
        "int8": OpenVINORunner(read_quantised(folder).graph, "auto", BATCH),
    }
    return runners, facts


def encode(runners: dict[str, OpenVINORunner], facts: Facts, block: list[tuple[Source, int, bool]], file: Path) -> None:
    """Features of a block of pictures by all kinds, into one file."""
    pictures = torch.stack([facts.preprocess(source.picture(index)) for source, index, _ in block])
    found = {
        kind: torch.cat([torch.cat(runner(batch, OUTPUTS), dim=1) for batch in pictures.split(BATCH)])
        for kind, runner in runners.items()
    }
    found[LABEL] = torch.tensor([source.label(index) for source, index, _ in block])
    found[HELD] = torch.tensor([held for _, _, held in block])
    temporary = file.with_suffix(".tmp")
    save_file(found, temporary)
    temporary.replace(file)


def measure(features: dict[str, Tensor], classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Probe accuracy of each kind, and how far its features and its answers are from float32's."""
    held, labels = features[HELD], features[LABEL]
    figures: dict[str, dict[str, float]] = {}
    answers: dict[str, Tensor] = {}
    right = {kind: right_in_folds(features[kind], labels) for kind in KINDS}
    for kind in KINDS:
        values = features[kind]
        probe = fit_linear_probe(values[~held], labels[~held], len(classes))
        found = probe.probabilities(values[held])
        answers[kind] = found.argmax(dim=1)
        exact = features["fp32"][held]
        lost, won = lost_and_won(right["fp32"], right[kind])
        figures[kind] = {
            "accuracy": float(score_classifier(found, labels[held], classes).accuracy),
            "agreement": float((answers[kind] == answers["fp32"]).double().mean()),
            "relative_error": float((values[held] - exact).norm() / exact.norm()),
            "in_folds": float(right[kind].double().mean()),
            "lost": lost,
            "won": won,
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--calibration", type=int, default=200, help="pictures, all from the training part")
    parser.add_argument("--pictures", type=int, help="encode and measure only so many; all when left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/int8"))
    args = parser.parse_args()
    train, val = open_data(args.data)
    args.out.mkdir(parents=True, exist_ok=True)
    runners, facts = load_runners(args, train)
    every = [(part, index, part is val) for part in (train, val) for index in range(len(part))]
    order = np.random.default_rng(args.seed).permutation(len(every))[: args.pictures]
    files = []
    for start in range(0, len(order), BLOCK):
        files.append(args.out / f"block-{start:06}.safetensors")
        if not files[-1].exists():
            encode(runners, facts, [every[int(place)] for place in order[start : start + BLOCK]], files[-1])
    blocks = [load_file(file) for file in files]
    features = {name: torch.cat([block[name] for block in blocks])[: len(order)] for name in blocks[0]}
    figures = measure(features, train.classes)
    held = int(features[HELD].sum())
    (args.out / "figures.json").write_text(json.dumps({"held_out": held, **figures}, indent=2) + "\n")
    table = Table("features", "probe accuracy", "same answer as fp32", "relative error", "in five folds", "lost", "won")
    for kind, row in figures.items():
        shares = (f"{row['accuracy']:.2%}", f"{row['agreement']:.2%}", f"{row['relative_error']:.4f}")
        table.add_row(kind, *shares, f"{row['in_folds']:.2%}", str(row["lost"]), str(row["won"]))
    Console().print(f"{args.model} at {args.image_size}, {args.data}: {held} of {len(order)} pictures held out", table)


if __name__ == "__main__":
    main()
