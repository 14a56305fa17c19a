import csv
import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.jobs.tiny import tiny_config
from vitrail.contracts import VitrailError
from vitrail.data import read_picture
from vitrail.explanations import AttentionRecord
from vitrail.jobs.bulk import run_in_parts
from vitrail.jobs.convert import ConvertConfig, convert
from vitrail.jobs.embed import EmbedConfig, embed
from vitrail.jobs.evaluate import EvaluateConfig, evaluate
from vitrail.jobs.explain import ExplainConfig, explain
from vitrail.jobs.export import ExportConfig, export
from vitrail.jobs.predict import predict
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.pretrain import pretrain
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.probe import ProbeConfig, probe
from vitrail.jobs.train import train
from vitrail.jobs.training import Training
from vitrail.weights import Artefact

HERE = {"device": "cpu", "precision": "fp32", "workers": 0}


def test_evaluate_remembers_the_data_of_the_run(trained: Path, tmp_path: Path):
    result = evaluate(EvaluateConfig(model=str(trained), out=tmp_path / "out", **HERE))
    assert result.scores.accuracy == 1.0
    assert len(result.outputs.names) == 9
    on_train = evaluate(EvaluateConfig(model=str(trained), split="train", out=tmp_path / "train", **HERE))
    assert len(on_train.outputs.names) == 27
    assert not set(on_train.outputs.names) & set(result.outputs.names)


def test_evaluate_follows_the_defaults_of_training(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # A run's config leaves out what stood at its default.
    monkeypatch.setattr(Training, "val_fraction", 0.5)
    result = evaluate(EvaluateConfig(model=str(trained), out=tmp_path / "half", **HERE))
    assert len(result.outputs.names) == 18
    monkeypatch.setattr(Training, "split_seed", 1)
    other = evaluate(EvaluateConfig(model=str(trained), out=tmp_path / "other", **HERE))
    assert set(other.outputs.names) != set(result.outputs.names)


def test_a_part_of_the_data_that_there_is_not_is_refused_at_once():
    with pytest.raises(VitrailError, match="split must be val or train, not 'test'"):
        EvaluateConfig(model="nowhere", split="test")


def test_evaluate_refuses_data_with_other_classes(trained: Path, photos: Path, tmp_path: Path):
    (tmp_path / "two").mkdir()
    for name in ("blue", "red"):
        (tmp_path / "two" / name).symlink_to(photos / name)
    with pytest.raises(VitrailError, match="the classes differ"):
        evaluate(EvaluateConfig(data=str(tmp_path / "two"), model=str(trained), out=tmp_path / "out", **HERE))


def test_evaluate_knows_the_data_of_the_run_by_any_name(trained: Path, photos: Path, tmp_path: Path):
    remembered = evaluate(EvaluateConfig(model=str(trained), out=tmp_path / "a", **HERE)).outputs.names
    named = evaluate(EvaluateConfig(data=f"{photos}/../{photos.name}/", model=str(trained), out=tmp_path / "b", **HERE))
    assert [Path(name).name for name in named.outputs.names] == [Path(name).name for name in remembered]
    with pytest.raises(VitrailError, match="val_fraction must lie between 0 and 1, not 0"):
        evaluate(EvaluateConfig(model=str(trained), val_fraction=0.0, out=tmp_path / "c", **HERE))


def test_other_data_than_the_run_s_are_scored_whole(trained: Path, photos: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    # A class of which a test set has one picture could not be split.
    for path in sorted((other / "red").iterdir())[1:]:
        path.unlink()
    every = len(list(other.rglob("*.png")))
    result = evaluate(EvaluateConfig(data=str(other), model=str(trained), out=tmp_path / "a", **HERE))
    assert len(result.outputs.names) == every
    half = EvaluateConfig(
        data=str(photos / ".." / "x"), model=str(trained), val_fraction=0.5, out=tmp_path / "b", **HERE
    )
    shutil.copytree(photos, photos.parent / "x")
    assert len(evaluate(half).outputs.names) == 18


def test_measuring_never_writes_over_a_training_run(trained: Path, photos: Path):
    before = {name: (trained / name).read_bytes() for name in ("config.yaml", "metrics.json")}
    with pytest.raises(VitrailError, match="holds a run of vitrail train, which stays as it is"):
        evaluate(EvaluateConfig(data=str(photos), model=str(trained), out=trained, **HERE))
    with pytest.raises(VitrailError, match="holds a run of vitrail train"):
        probe(ProbeConfig(data=str(photos), model=str(trained), out=trained, **HERE))
    assert before == {name: (trained / name).read_bytes() for name in before}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_predict_names_every_picture_once_and_right(trained: Path, photos: Path, tmp_path: Path, ending: str):
    out = tmp_path / f"answers.{ending}"
    rows = predict(PredictConfig(source=str(photos), model=str(trained), out=out, top=2, batch_size=7, **HERE))
    assert [row["name"] for row in rows] == sorted(str(path) for path in photos.rglob("*.png"))
    assert all(row["label"] == Path(row["name"]).parent.name for row in rows)
    if ending == "csv":
        stored = list(csv.DictReader(out.open()))
        assert stored[0]["label"] == rows[0]["label"] and stored[0]["top_labels_1"] == rows[0]["top_labels"][1]
    elif ending == "jsonl":
        assert [json.loads(line) for line in out.read_text().splitlines()] == list(rows)
    else:
        import pyarrow.parquet as pq

        assert pq.read_table(out).to_pylist() == list(rows)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_nothing_is_drawn_among_the_pictures(photos: Path, tmp_path: Path):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    for source, drawn in (
        (folder, folder),
        (folder, folder / "red" / "drawn"),
        (folder / "red" / "00.png", folder / "red"),
        (folder / "red" / "*.png", folder / "red"),
        (folder / "*", folder / "red"),
    ):
        with pytest.raises(VitrailError, match="lies among the pictures"):
            predict(PredictConfig(source=str(source), model="nothing is loaded", draw=drawn, **HERE))
    assert not (folder / "red" / "drawn").exists()


def test_predict_feeds_the_model_what_evaluation_fed_it(trained: Path, photos: Path, tmp_path: Path):
    """One preprocessing: the artefact's, called by hand, gives the very confidence that predict wrote."""
    picture = sorted(photos.rglob("*.png"))[5]
    (row,) = predict(PredictConfig(source=str(picture), model=str(trained), out=tmp_path / "one.jsonl", **HERE))
    artefact = Artefact.from_pretrained(trained / "model")
    assert artefact.preprocess is not None
    with torch.inference_mode():
        by_hand = artefact(artefact.preprocess(read_picture(picture))[None]).softmax(1)[0]
    assert row["confidence"] == round(float(by_hand.max()), 6)
    outputs = [
        evaluate(EvaluateConfig(model=str(trained), split=split, out=tmp_path / split, **HERE)).outputs
        for split in ("train", "val")
    ]
    evaluated = {name: row for part in outputs for name, row in zip(part.names, part.values, strict=True)}
    assert torch.allclose(evaluated[str(picture)], by_hand, atol=1e-6)


def test_predict_wants_a_model_with_classes_and_a_known_ending(photos: Path, trained: Path, tmp_path: Path):
    with pytest.raises(VitrailError, match=r"one of \.csv, \.jsonl, \.parquet"):
        predict(PredictConfig(source=str(photos), model=str(trained), out=tmp_path / "out.xlsx", **HERE))
    with pytest.raises(VitrailError):
        predict(PredictConfig(source=str(photos / "missing"), model=str(trained), out=tmp_path / "o.csv", **HERE))


def test_embeddings_are_the_pooled_features(trained: Path, photos: Path, tmp_path: Path):
    rows = embed(
        EmbedConfig(
            source=f"{photos}/red/*.png", model=str(trained), pool="class_mean", out=tmp_path / "e.jsonl", **HERE
        )
    )
    assert len(rows) == 12 and len(rows[0]["embedding"]) == 64
    artefact = Artefact.from_pretrained(trained / "model")
    assert artefact.preprocess is not None
    with torch.inference_mode():
        tokens = artefact.model.features(artefact.preprocess(read_picture(rows[3]["name"]))[None])
    expected = torch.cat([tokens.values[0, 0], tokens.patches[0].mean(0)])
    assert rows[3]["embedding"] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_bulk_job_goes_on_where_it_was_killed_and_does_each_picture_once(tmp_path: Path):
    names, done = [f"p{i}" for i in range(10)], []

    def work(part: range, fail_at: int | None) -> list[dict]:
        if fail_at is not None and fail_at in part:
            raise KeyboardInterrupt
        done.extend(part)
        return [{"name": names[i], "value": i} for i in part]

    out = tmp_path / "rows.jsonl"
    for fail_at in (4, 7):
        with pytest.raises(KeyboardInterrupt):
            run_in_parts(names, "key", lambda part, f=fail_at: work(part, f), out, part=3)
        assert not out.exists()
    rows = run_in_parts(names, "key", lambda part: work(part, None), out, part=3)
    assert sorted(done) == list(range(10))
    assert [row["value"] for row in rows] == list(range(10))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_parts_of_another_job_are_refused(tmp_path: Path):
    def stop(part: range) -> list[dict]:
        if 1 in part:
            raise KeyboardInterrupt
        return [{"name": "a"}]

    out = tmp_path / "rows.csv"
    with pytest.raises(KeyboardInterrupt):
        run_in_parts(["a", "b"], "one", stop, out, part=1)
    with pytest.raises(VitrailError, match="another job"):
        run_in_parts(["a", "b"], "two", stop, out, part=1)


def test_probe_measures_frozen_features_and_encodes_each_picture_once(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = ProbeConfig(data=str(photos), model=str(trained), out=tmp_path / "probe", k=3, **HERE)
    first = probe(config)
    assert first.knn.accuracy == 1.0 and first.linear.accuracy == 1.0
    metrics = json.loads((tmp_path / "probe" / "metrics.json").read_text())
    assert metrics["features"] == 64 and metrics["pictures"] == {"train": 27, "val": 9}
    module = import_module("vitrail.jobs.probe")  # the package's attribute of that name is the function
    monkeypatch.setattr(module, "run_source", lambda *_: pytest.fail("encoded twice"))
    assert probe(config).linear.accuracy == 1.0


def test_the_feature_cache_does_not_outlive_the_preprocessing(trained: Path, photos: Path, tmp_path: Path):
    config = dict(data=str(photos), model=str(trained), out=tmp_path / "probe", k=3, **HERE)
    probe(ProbeConfig(**config))
    before = (tmp_path / "probe" / "features-val.safetensors").read_bytes()
    probe(ProbeConfig(**config, crop=0.5))
    assert (tmp_path / "probe" / "features-val.safetensors").read_bytes() != before


def test_explain_draws_the_right_grid_for_a_picture_that_is_not_square(trained: Path, tmp_path: Path):
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8))
    wide.save(tmp_path / "wide.png")
    (explanation,) = explain(
        ExplainConfig(source=str(tmp_path / "wide.png"), model=str(trained), whole=True, out=tmp_path / "out", **HERE)
    )
    names = {path.name for path in explanation.files}
    assert {"attention.png", "heads.png", "layers.png", "rollout.png", "pca.png", "relevance.png"} <= names
    assert {"attention.npz", "maps.npz"} <= names
    attention = AttentionRecord.from_npz(tmp_path / "out" / "wide" / "attention.npz")
    # 40 x 90 to a short side of 16 is 16 x 36, and 32 is the nearest whole number of patches of 8.
    assert attention[-1].grid == (2, 4)
    assert all(Image.open(path).width > 100 for path in explanation.files if path.suffix == ".png")


def test_explain_gives_pictures_of_one_name_folders_of_their_own(trained: Path, photos: Path, tmp_path: Path):
    explained = explain(ExplainConfig(source=f"{photos}/*/00.png", model=str(trained), out=tmp_path, **HERE))
    assert [item.files[0].parent.name for item in explained] == ["00", "00-2", "00-3"]


def test_convert_takes_a_run_and_refuses_one_that_has_not_finished(trained: Path, tmp_path: Path):
    account = convert(ConvertConfig(source=trained, target=tmp_path / "timm", to="timm"))
    assert account.translated and not account.missing
    assert (tmp_path / "timm" / "model.safetensors").is_file()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("epochs: 3\n")
    with pytest.raises(VitrailError, match="begun: this run has not finished"):
        convert(ConvertConfig(source=tmp_path / "begun", target=tmp_path / "new", to="timm"))
    with pytest.raises(VitrailError, match="nowhere: neither a file, nor a folder"):
        convert(ConvertConfig(source=Path("nowhere"), target=tmp_path / "new", to="timm"))


@pytest.mark.parametrize("verb", ["evaluate", "probe", "explain", "train", "pretrain", "convert", "export", "predict"])
def test_every_verb_that_computes_with_torch_says_what_an_8_bit_folder_is(verb: str, photos: Path, tmp_path: Path):
    folder = tmp_path / "int8"
    folder.mkdir()
    (folder / "graph.xml").touch()
    (folder / "config.json").write_text(json.dumps({"format": "openvino-int8", "classes": ["cat", "dog"]}))
    picture, data, model, out = str(next((photos / "red").iterdir())), str(photos), str(folder), tmp_path / "out"
    asked: dict[str, Callable[[], object]] = {
        "evaluate": lambda: evaluate(EvaluateConfig(data=data, model=model, out=out, **HERE)),
        "probe": lambda: probe(ProbeConfig(data=data, model=model, out=out, **HERE)),
        "explain": lambda: explain(ExplainConfig(source=picture, model=model, out=out, **HERE)),
        "train": lambda: train(tiny_config(photos, out, model=model, pretrained=True)),
        "pretrain": lambda: pretrain(PretrainConfig(data=data, model=model, method="mae", out=out, **HERE)),
        "convert": lambda: convert(ConvertConfig(source=folder, target=out, to="timm")),
        "export": lambda: export(ExportConfig(model=model, out=out)),
        "predict": lambda: predict(PredictConfig(source=picture, model=model, out=out, **HERE)),
    }
    with pytest.raises(VitrailError, match="int8 holds an 8-bit graph: predict and embed take it with"):
        asked[verb]()
