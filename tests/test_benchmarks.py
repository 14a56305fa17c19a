"""The scripts in benchmarks/, in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vitrail.cli import parse

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


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
