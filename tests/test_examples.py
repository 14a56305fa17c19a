"""The examples do what the README says they do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_vit_base_from_parts_has_the_published_size(tmp_path: Path):
    assert run("vit_from_parts.py", cwd=tmp_path).splitlines() == ["(1, 1000)", "86,567,656 parameters"]


def test_fine_tuning_a_folder_learns_and_keeps_the_model(tmp_path: Path, photos: Path, trained: Path):
    shown = run("finetune_folder.py", photos, trained, 2, cwd=tmp_path)
    (model,) = tmp_path.glob("runs/*/model/model.safetensors")
    assert str(model.parent.relative_to(tmp_path)) in shown
    assert shown.startswith("accuracy 100.00%")


def test_the_attention_figure_of_a_photograph(tmp_path: Path, trained: Path):
    data = pytest.importorskip("skimage.data")
    Image.fromarray(data.astronaut()[:, :300]).save(tmp_path / "astronaut.png")
    shown = run("attention_figure.py", "astronaut.png", "figure.png", trained, cwd=tmp_path)
    assert "2 x 2 patches" in shown
    figure = Image.open(tmp_path / "figure.png").convert("RGB")
    assert figure.width > figure.height
    assert len(set(figure.resize((64, 32)).getdata())) > 100  # a picture and colours, not a blank page
