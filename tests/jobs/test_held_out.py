"""The last evaluation of a run is the one that its figures and its report are made from."""

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.jobs.tiny import tiny_config
from vitrail.data import Loader, TrainTransform, open_data
from vitrail.engine import World
from vitrail.jobs.evaluate import EvaluateConfig, evaluate
from vitrail.jobs.held_out import HeldOut
from vitrail.jobs.train import train
from vitrail.weights import Artefact


def _measured(run: Path, photos: Path, world: World) -> HeldOut:
    preprocess = Artefact.from_pretrained(run / "model").preprocess
    loader = Loader(
        open_data(str(photos), val_fraction=0.25, seed=0, online=False).val,
        TrainTransform(preprocess, None),
        batch_size=4,
        shuffle=False,
        drop_last=False,
    )
    return HeldOut(loader, torch.device("cpu"), world)


def test_it_remembers_the_probability_of_every_picture_in_order(trained: Path, photos: Path):
    held_out = _measured(trained, photos, World())
    model = Artefact.from_pretrained(trained / "model").backbone.eval()
    assert held_out.latest is None
    with torch.no_grad():
        figures = held_out(model)
    assert held_out.latest is not None
    values, labels = held_out.latest.values, held_out.latest.labels
    assert held_out.latest.indices.tolist() == list(range(9))
    torch.testing.assert_close(values.sum(dim=1), torch.ones(9))
    assert figures["accuracy"] == float((values.argmax(dim=1) == labels).float().mean())
    assert figures["loss"] == pytest.approx(-float(values[range(9), labels].log().mean()), rel=1e-5)


def test_a_finished_run_is_not_measured_a_second_time(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def again(*_: object) -> None:
        raise AssertionError("the held-out pictures went through the model once more")

    # The package's name ``train`` is the function; its module is reached by the full path.
    monkeypatch.setattr(import_module("vitrail.jobs.train"), "run_source", again)
    result = train(tiny_config(photos, tmp_path / "run", epochs=2, report=False))
    assert result is not None
    monkeypatch.undo()
    config = EvaluateConfig(
        model=str(tmp_path / "run"), workers=0, device="cpu", precision="fp32", out=tmp_path / "evaluated"
    )
    alone = evaluate(config).scores
    stored = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert stored["accuracy"] == alone.accuracy and (result.scores.confusion == alone.confusion).all()
