"""The verbs that take a backbone, with backbones that are no Vision Transformer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.jobs.tiny import TINY, tiny_config
from vitrail.contracts import VitrailError
from vitrail.jobs.embed import EmbedConfig, embed
from vitrail.jobs.predict import predict
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.probe import ProbeConfig, probe
from vitrail.jobs.train import train

HERE = {"device": "cpu", "precision": "fp32", "workers": 0}
MODELS = {
    "vit_small_patch16_dinov3": (16, 8, TINY),
    "resnet18": (32, None, ("depths=[1,1,1,1]",)),
    "convnext_tiny": (32, None, ("depths=[1,1,1,1]", "widths=[8,16,24,32]")),
}


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs."""
    pixels, patch, options = MODELS[request.param]
    out = tmp_path_factory.mktemp("families") / request.param
    config = tiny_config(
        photos, out, model=request.param, image_size=pixels, patch_size=patch, model_options=options, epochs=2
    )
    assert train(replace(config, layer_decay=0.75, drop_path=0.1)) is not None
    return out


def test_a_run_is_finished_reported_and_answers(run: Path, photos: Path, tmp_path: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 6 and (run / "report.html").is_file()
    rows = predict(PredictConfig(source=str(photos / "red"), model=str(run), out=tmp_path / "answers.csv", **HERE))
    assert len(rows) == 12 and {row["label"] for row in rows} <= {"blue", "green", "red"}


def test_features_are_probed_and_embedded(run: Path, photos: Path, tmp_path: Path) -> None:
    result = probe(ProbeConfig(data=str(photos), model=str(run), pool="mean", k=3, out=tmp_path / "probe", **HERE))
    assert result.linear.accuracy > 0.6
    rows = embed(EmbedConfig(source=str(photos), model=str(run), pool="mean", out=tmp_path / "rows.csv", **HERE))
    assert len(rows) == 36 and len({len(row["embedding"]) for row in rows}) == 1


def test_a_class_token_is_not_made_of_a_patch(run: Path, photos: Path, tmp_path: Path) -> None:
    config = EmbedConfig(source=str(photos), model=str(run), pool="class", out=tmp_path / "rows.csv", **HERE)
    if "dinov3" in run.name:
        assert len(embed(config)) == 36
    else:
        with pytest.raises(VitrailError, match="no class token: pool the mean"):
            embed(config)


@pytest.mark.parametrize("tune", ["last", "head"])
def test_a_resnet_is_tuned_in_part(photos: Path, tmp_path: Path, tune: str) -> None:
    options = ("depths=[1,1,1,1]",)
    config = tiny_config(
        photos, tmp_path / tune, model="resnet18", image_size=32, patch_size=None, model_options=options, epochs=1
    )
    result = train(replace(config, tune=tune, tune_blocks=1, report=False))
    assert result is not None
    learned = {n for n, p in result.artefact.model.named_parameters() if p.requires_grad}
    stages = {name.split(".")[1] for name in learned if name.startswith("stages.")}
    assert "head.weight" in learned and stages == ({"layer4"} if tune == "last" else set())
    with pytest.raises(VitrailError, match="no linear layers in blocks"):
        train(replace(config, tune="lora", out=tmp_path / "lora"))
