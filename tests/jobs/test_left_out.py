"""``--on-error skip``: broken pictures are left out and counted wherever they stand; nothing but them is an error."""

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from tests.jobs.tiny import tiny_config
from tests.jobs.tiny_pretrain import pretrain_config
from tests.models.tiny import TINY
from vitrail.contracts import VitrailError
from vitrail.data import FileSource, Preprocess
from vitrail.engine import World
from vitrail.jobs import bulk
from vitrail.jobs.embed import EmbedConfig, embed
from vitrail.jobs.explain import ExplainConfig, explain
from vitrail.jobs.left_out import LeftOut
from vitrail.jobs.predict import predict
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.pretrain import pretrain
from vitrail.jobs.pretraining.pictures import Album
from vitrail.jobs.quantise import stack
from vitrail.jobs.run import write_metrics
from vitrail.jobs.train import train
from vitrail.methods import Classify
from vitrail.models import build, config_of
from vitrail.weights import Artefact, load_artefact

HERE = {"device": "cpu", "precision": "fp32", "workers": 0}


@pytest.fixture
def mixed(photos: Path, tmp_path: Path) -> Path:
    """Good pictures with broken ones before, between and behind them, by name."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = sorted((photos / "red").iterdir())
    for number in range(7):
        data = b"<html>404</html>" if number in (0, 3, 4, 6) else good[number].read_bytes()
        (folder / f"{number}.png").write_bytes(data)
    return folder


@pytest.fixture
def hopeless(tmp_path: Path) -> Path:
    """A folder of nothing but broken pictures."""
    folder = tmp_path / "hopeless"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def parts_of_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Parts so short that some hold broken pictures alone."""
    run = bulk.run_in_parts
    for verb in ("predict_classes", "embed", "detect"):
        monkeypatch.setattr(f"vitrail.jobs.{verb}.run_in_parts", lambda *job: run(*job, part=2))
    yield


def stems(rows: object) -> list[str]:
    return [Path(row["name"]).stem for row in rows]


@pytest.mark.usefixtures("parts_of_two")
@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("workers", [0, 2])
def test_predict_passes_over_batches_and_parts_of_broken_pictures(
    batch_size: int, workers: int, trained: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**HERE, "workers": workers, "batch_size": batch_size, "on_error": "skip"}
    rows = predict(PredictConfig(source=str(mixed), model=str(trained), out=tmp_path / "a.csv", **config))
    assert stems(rows) == ["1", "2", "5"]
    said = capsys.readouterr().err
    assert said.count("skipped ") == 4 and "3 pictures (4 broken, left out)" in said


@pytest.mark.usefixtures("parts_of_two")
def test_embed_passes_over_them_too(trained: Path, mixed: Path, tmp_path: Path) -> None:
    config = EmbedConfig(source=str(mixed), model=str(trained), out=tmp_path / "e.jsonl", on_error="skip", **HERE)
    assert stems(embed(config)) == ["1", "2", "5"]


@pytest.mark.usefixtures("parts_of_two")
@pytest.mark.parametrize("verb", ["predict", "embed"])
def test_nothing_but_broken_pictures_is_told_once_for_the_job_and_they_can_be_mended(
    verb: str, trained: Path, photos: Path, hopeless: Path, tmp_path: Path
) -> None:
    job, kind = {"predict": (predict, PredictConfig), "embed": (embed, EmbedConfig)}[verb]
    config = kind(source=str(hopeless), model=str(trained), out=tmp_path / "a.csv", on_error="skip", **HERE)
    with pytest.raises(VitrailError, match="every picture was broken"):
        job(config)
    assert [path.name for path in tmp_path.iterdir()] == ["hopeless"]
    (hopeless / "b.png").write_bytes((photos / "red" / "00.png").read_bytes())
    assert stems(job(config)) == ["b"]


def test_training_is_measured_on_the_held_out_pictures_that_can_be_read(photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for part, numbers in (("train", range(4)), ("val", range(4, 6))):
        for colour in ("blue", "green", "red"):
            (data / part / colour).mkdir(parents=True)
            for number in numbers:
                file = f"{number:02}.png"
                (data / part / colour / file).write_bytes((photos / colour / file).read_bytes())
    # The last batch of the six held-out pictures, four of which fill the first.
    for file in (data / "val" / "red").iterdir():
        file.write_bytes(b"no picture")
    train(tiny_config(data, tmp_path / "run", epochs=1, batch_size=4, on_error="skip", report=False))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert sorted(Path(name).name for name, _ in metrics["skipped"]) == ["04.png", "05.png"]


def test_explain_draws_the_others(trained: Path, mixed: Path, hopeless: Path, tmp_path: Path) -> None:
    config = {"model": str(trained), "out": tmp_path / "out", "kinds": ("reach",), **HERE}
    with pytest.raises(VitrailError, match=r"0\.png"):
        explain(ExplainConfig(source=str(mixed), **config))
    config["on_error"] = "skip"
    assert [Path(one.name).stem for one in explain(ExplainConfig(source=str(mixed), **config))] == ["1", "2", "5"]
    assert "more pictures" not in (tmp_path / "out" / "explain.html").read_text()
    with pytest.raises(VitrailError, match="every picture was broken"):
        explain(ExplainConfig(source=str(hopeless), **config))
    with pytest.raises(VitrailError, match=r"a\.png"):  # What all are compared with cannot be left out.
        explain(ExplainConfig(source=str(mixed), other=hopeless / "a.png", **config))


def test_explain_looks_at_the_frames_of_a_clip_that_can_be_read(mixed: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(config_of("videomae_base_patch16_224", TINY["videomae_base_patch16_224"]))
    height, width = model.img_size
    Artefact(model, (), Preprocess(size=(height, width))).save_pretrained(tmp_path / "model")
    config = ExplainConfig(
        source=str(mixed),
        model=str(tmp_path / "model"),
        out=tmp_path / "out",
        kinds=("reach",),
        on_error="skip",
        **HERE,
    )
    (clip,) = explain(config)
    assert Path(clip.name).stem == "1"


def test_explain_refuses_a_precision_that_its_maps_do_not_have(trained: Path, mixed: Path, tmp_path: Path) -> None:
    config = {**HERE, "precision": "bf16"}
    with pytest.raises(VitrailError, match="drawn in float32"):
        explain(ExplainConfig(source=str(mixed / "1.png"), model=str(trained), out=tmp_path / "out", **config))
    assert not (tmp_path / "out").exists()


def test_calibration_takes_the_others(mixed: Path, hopeless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preprocess = Preprocess((8, 8))
    source = FileSource(sorted(mixed.iterdir()))
    with pytest.raises(VitrailError, match=r"0\.png"):
        stack(source, preprocess)
    assert torch.equal(stack(source, preprocess, "skip")[1], preprocess(Image.open(mixed / "2.png")))
    assert capsys.readouterr().err.count("skipped ") == 4
    with pytest.raises(VitrailError, match="every picture was broken"):
        stack(FileSource(sorted(hopeless.iterdir())), preprocess, "skip")


def test_the_album_of_a_pretraining_shows_the_others(
    trained: Path, mixed: Path, hopeless: Path, tmp_path: Path
) -> None:
    model = load_artefact(trained / "model").backbone
    shown: list[int] = []

    def show(method: nn.Module, kept: nn.Module, images: torch.Tensor, preprocess: Preprocess) -> list:
        shown.append(len(images))
        raise KeyboardInterrupt  # There is nothing to draw here.

    def album(folder: Path, **options: str) -> Album:
        source = FileSource(sorted(folder.iterdir()))
        return Album(Classify(model), source, 7, Preprocess((16, 16)), show, tmp_path, World(), **options)

    with pytest.raises(VitrailError, match=r"0\.png"):
        album(mixed)
    with pytest.raises(KeyboardInterrupt):
        album(mixed, on_error="skip")(model, None)
    assert shown == [3]
    album(hopeless, on_error="skip")(model, None)
    assert shown == [3]


@pytest.fixture
def partly(photos: Path, tmp_path: Path) -> Path:
    """Training and held-out pictures, one of each broken."""
    data = tmp_path / "data"
    for part, numbers in (("train", range(4)), ("val", range(4, 6))):
        for colour in ("blue", "green", "red"):
            (data / part / colour).mkdir(parents=True)
            for number in numbers:
                file = f"{number:02}.png"
                (data / part / colour / file).write_bytes((photos / colour / file).read_bytes())
    for file in (data / "train" / "red" / "00.png", data / "val" / "red" / "05.png"):
        file.write_bytes(b"no picture")
    return data


def noted(run: Path) -> tuple[dict[str, int], list[str]]:
    facts = json.loads((run / "metrics.json").read_text())
    return facts["pictures"], sorted(Path(name).name for name, _ in facts["skipped"])


def test_a_training_names_what_it_left_out_counts_the_others_and_remembers_both(
    partly: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(partly, tmp_path / "run", epochs=1, batch_size=4, on_error="skip")
    expected = ({"train": 11, "val": 5}, ["00.png", "05.png"])
    for _ in range(2):  # The second time there is nothing left to train on, but to report.
        train(config)
        assert noted(tmp_path / "run") == expected
        said = capsys.readouterr().err
        assert said.count("skipped ") == 2
        assert "learnt from 11 pictures (1 broken, left out), held out 5 pictures (1 broken, left out)" in said
        report = (tmp_path / "run" / "report.html").read_text()
        assert "5 held-out pictures" in report and "1 epoch, 11 pictures" in report and "2 warnings" in report
    train(replace(config, fresh=True, epochs=2))
    assert noted(tmp_path / "run") == expected


def test_a_pretraining_does_so_too(partly: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = pretrain_config(
        tmp_path / "run",
        str(partly),
        model_options=("depth=1", "embed_dim=32", "num_heads=2"),
        image_size=16,
        patch_size=4,
        epochs=1,
        batch_size=4,
        on_error="skip",
    )
    for _ in range(2):
        pretrain(config)
        assert noted(tmp_path / "run") == ({"train": 11, "val": 5}, ["00.png", "05.png"])
        assert "learnt from 11 pictures (1 broken, left out)" in capsys.readouterr().err
        assert "2 warnings" in (tmp_path / "run" / "report.html").read_text()


def test_every_process_tells_what_it_left_out(tmp_path: Path) -> None:
    class Two(World):
        def gather(self, value: Any) -> list[Any]:
            return [value, [("b", "cut off")]]

    (tmp_path / "left_out.json").write_text('{"c": "no picture", "a": "another reason"}')
    expected = {"c": "no picture", "a": "empty", "b": "cut off"}
    assert LeftOut(tmp_path, Two(), lambda: [("a", "empty")]).note() == expected
    assert LeftOut(tmp_path, World(), list).note() == expected
    (tmp_path / "left_out.json").write_text("{")
    with pytest.raises(VitrailError, match=r"left_out\.json: cannot be read"):
        LeftOut(tmp_path, World(), list).note()


def test_names_that_are_no_text_stand_in_the_figures_too(tmp_path: Path) -> None:
    skipped = [["ü/cell\udcff.png", "empty"]]
    write_metrics(tmp_path, {"skipped": skipped})
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["skipped"] == skipped


def test_a_run_that_was_stopped_remembers_what_it_left_out(
    partly: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(partly, tmp_path / "run", epochs=1, batch_size=4, on_error="skip", report=False)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    # The package's name ``train`` is the function; its module is reached by the full path.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(import_module("vitrail.jobs.train"), "finish", killed)
        train(config)
    assert not (tmp_path / "run" / "metrics.json").exists()
    train(config)
    assert noted(tmp_path / "run") == ({"train": 11, "val": 5}, ["00.png", "05.png"])
