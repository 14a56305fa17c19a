"""Without --out, results never take the place of those of other data or of another model."""

import shutil
from pathlib import Path

import pytest

from vitrail.contracts import VitrailError
from vitrail.jobs.embed import EmbedConfig, embed
from vitrail.jobs.evaluate import EvaluateConfig, evaluate
from vitrail.jobs.explain import ExplainConfig, explain
from vitrail.jobs.own_folder import own_folder
from vitrail.jobs.predict import predict
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.settings import default_out, read_config

HERE = {"device": "cpu", "precision": "fp32", "workers": 0}


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("photos", "vit_small_patch14_dinov2"), "predict-photos-vit_small_patch14_dinov2"),
        (("A/new/", "runs/cont"), "predict-new-cont"),
        (("new", "runs/one/model"), "predict-new-one-model"),
        (("new", "model"), "predict-new-model"),
        (("d/*.jpg", "runs/cont"), "predict-d--.jpg-cont"),
        (("", "runs/cont"), "predict-cont"),
    ],
)
def test_names_say_what_tells_them_apart(parts: tuple[str, ...], name: str) -> None:
    assert default_out("predict", *parts) == Path("runs") / name


@pytest.fixture
def here(tmp_path: Path, photos: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with two data sets of one name and a model."""
    for name in ("A", "B"):
        shutil.copytree(photos, tmp_path / name / "new")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cont").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_predictions_of_a_folder_of_the_same_name_are_refused_and_kept(here: Path) -> None:
    first = predict(PredictConfig(source="A/new/red", model="runs/cont", **HERE))
    assert first.path == Path("runs/predict-red-cont/predictions.csv")
    kept = first.path.read_bytes()
    with pytest.raises(VitrailError, match=r"red-cont: .* \(source was A/new/red, is B/new/red\); .* --out"):
        predict(PredictConfig(source="B/new/red", model="runs/cont", **HERE))
    assert first.path.read_bytes() == kept
    # The same pictures may be named in another way, and asked for in another form.
    again = predict(PredictConfig(source=f"{here}/A/new/../new/red/", model="runs/cont", top=1, **HERE))
    assert again.path == first.path and len(again) == len(first)
    assert read_config(Path("runs/predict-red-cont/config.yaml"))["top"] == 1


def test_every_verb_that_names_its_folder_looks_who_is_there(here: Path) -> None:
    embed(EmbedConfig(source="A/new/red", model="runs/cont", **HERE))
    with pytest.raises(VitrailError, match=r"embed-red-cont: holds other results.* was A/new/red"):
        embed(EmbedConfig(source="B/new/red", model="runs/cont", **HERE))
    explain(ExplainConfig(source="A/new/red/00.png", model="runs/cont", kinds=("pca",), **HERE))
    with pytest.raises(VitrailError, match=r"explain-00.png-cont: holds other results.* was A/new/red/00.png"):
        explain(ExplainConfig(source="B/new/red/00.png", model="runs/cont", kinds=("pca",), **HERE))
    evaluate(EvaluateConfig(data="A/new", model="runs/cont", **HERE))
    with pytest.raises(VitrailError, match=r"evaluate-new-cont: holds other results.*\(data was A/new"):
        evaluate(EvaluateConfig(data="B/new", model="runs/cont", **HERE))


def test_another_model_of_the_same_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = own_folder("embed", EmbedConfig(source="new"), "source", "model")
    (out / "embeddings.parquet").touch()
    assert own_folder("embed", EmbedConfig(source="new"), "source", "model") == out
    with pytest.raises(VitrailError, match="model was the default, is x/vit_small_patch14_dinov2"):
        own_folder("embed", EmbedConfig(source="new", model="x/vit_small_patch14_dinov2"), "source", "model")


def test_a_job_that_failed_does_not_block_its_correction(here: Path) -> None:
    (here / "A/broken.png").write_bytes(b"no picture")
    shutil.copy(here / "A/new/red/00.png", here / "B/broken.png")
    with pytest.raises(VitrailError, match="broken"):
        predict(PredictConfig(source="A/broken.png", model="runs/cont", **HERE))
    assert len(predict(PredictConfig(source="B/broken.png", model="runs/cont", **HERE))) == 1


def test_a_command_that_fails_leaves_no_folder(here: Path) -> None:
    with pytest.raises(VitrailError):
        predict(PredictConfig(source="A/nothing", model="runs/cont", **HERE))
    with pytest.raises(VitrailError):
        embed(EmbedConfig(source="A/nothing", model="runs/cont", **HERE))
    assert [path.name for path in Path("runs").iterdir()] == ["cont"]
