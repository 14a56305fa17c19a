"""The scripts in benchmarks/, in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vitrail.cli import parse

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
DOCS = BENCHMARKS.parent / "docs"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts import each other by their plain names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_the_gpu_script_runs_on_a_cpu(tmp_path: Path) -> None:
    words = "--device cpu --model vit_tiny_patch16_224 --options depth=1 img_size=32 --backend eager --batch 2"
    few = "--steps 1 --rounds 1 --warm-up 1 --json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *words.split(), *few.split(), str(tmp_path / "gpu.json")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "compiled timm" in shown and "TFLOP/s" in shown
    found = json.loads((tmp_path / "gpu.json").read_text())
    forward, step = (found[task]["model_flops"] for task in ("inference", "training"))
    assert all(step[name] == 3 * forward[name] for name in ("vitrail", "compiled timm"))
    assert forward["vitrail"] < forward["compiled timm"]
    assert all(
        found[task]["seconds"][name] > 0 for task in ("training", "inference") for name in ("vitrail", "compiled timm")
    )


def test_every_case_of_the_table_is_a_command_and_takes_less_than_twenty_five_minutes(scripts: None) -> None:
    from cases import CASES  # pyright: ignore[reportMissingImports]

    for case in CASES:
        parse("bench", case.words)
    assert len({case.name for case in CASES}) == len(CASES)
    assert sum(case.seconds for case in CASES) <= 25 * 60


def taken(title: str, name: str) -> float:
    """How many times as long as Vitrail a contestant takes, in the table under a title of docs/benchmarks.md."""
    table = (DOCS / "benchmarks.md").read_text(encoding="utf-8").partition(f"### {title}")[2].partition("###")[0]
    row = next(line for line in table.splitlines() if line.startswith(f"| {name} |"))
    return float(row.split("|")[4].strip().removesuffix("x"))


def test_other_pages_give_the_figures_of_the_tables() -> None:
    step, mae = "A training step of ViT-S/16", "A step of MAE with ViT-S/16"
    timm, theirs, fused = taken(step, "timm"), taken(step, "transformers"), taken(mae, "transformers")
    eager, visible = taken(mae, "transformers-eager"), taken(mae, "all-visible")
    single, batch, swin = (f"Inference of {what}" for what in ("ViT-B/16, one", "ViT-B/16, batches of 16", "Swin-T"))
    hint, exact = "openvino-throughput", "timm:fp32"
    said = {
        DOCS / "speed.md": (
            f"throughput hint | 1.05 | {taken(single, hint):.2f} (latency hint {taken(single, 'openvino'):.2f})",
            f"better hint | 1.05 | {taken(batch, hint):.2f} (",
            f"better hint | 1.05 | {taken(swin, hint):.2f} |",
            f"timm in float32 | 5 | {taken(batch, exact):.2f} (",
            f"eager attention | 1.5 | {eager:.2f} |",
        ),
        DOCS / "input.md": (
            f"timm takes {timm:.2f} times as long for ViT-S/16",
            f"Transformers {fused:.2f} times for MAE ({eager:.2f} with its eager attention",
            f"first transforms, {taken('JPEG files', 'torchvision'):.2f} times",
        ),
        DOCS / "pretraining.md": (
            f"with all patches visible {visible:.1f} times as long",
            f"Transformers takes {fused:.1f} times as long, {eager:.1f} times with its eager attention",
        ),
        DOCS.parent / "README.md": (f"they take {timm:.2f} and {theirs:.2f} times as long",),
        DOCS / "evidence.md": (
            f"they take {timm:.2f} and {theirs:.2f} times as long",
            f"{visible:.1f}, {fused:.1f} and {eager:.1f} times as long",
        ),
    }
    for page, sentences in said.items():
        text = " ".join(page.read_text(encoding="utf-8").split())
        assert all(sentence in text for sentence in sentences), page
