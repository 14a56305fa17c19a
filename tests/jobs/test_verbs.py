import csv
import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.contracts import VitrailError
from vitrail.data import read_picture
from vitrail.explain import AttentionRecord
from vitrail.jobs.bulk import run_in_parts
from vitrail.jobs.embed import EmbedConfig, embed
from vitrail.jobs.evaluate import EvaluateConfig, evaluate
from vitrail.jobs.explain import ExplainConfig, explain
from vitrail.jobs.predict import predict
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.probe import ProbeConfig, probe
from vitrail.weights import Artefact

HERE = {"device": "cpu", "precision": "fp32", "workers": 0}


def test_evaluate_remembers_the_data_of_the_run(trained: Path, tmp_path: Path):
    result = evaluate(EvaluateConfig(model=str(trained), out=tmp_path / "out", **HERE))
    assert result.scores.accuracy == 1.0
    assert len(result.outputs.names) == 9
    on_train = evaluate(EvaluateConfig(model=str(trained), split="train", out=tmp_path / "train", **HERE))
    assert len(on_train.outputs.names) == 27
    assert not set(on_train.outputs.names) & set(result.outputs.names)


def test_evaluate_refuses_data_with_other_classes(trained: Path, photos: Path, tmp_path: Path):
    (tmp_path / "two").mkdir()
    for name in ("blue", "red"):
        (tmp_path / "two" / name).symlink_to(photos / name)
    with pytest.raises(VitrailError, match="the classes differ"):
        evaluate(EvaluateConfig(data=str(tmp_path / "two"), model=str(trained), out=tmp_path / "out", **HERE))


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
        raise KeyboardInterrupt

    out = tmp_path / "rows.csv"
    with pytest.raises(KeyboardInterrupt):
        run_in_parts(["a"], "one", stop, out)
    with pytest.raises(VitrailError, match="another job"):
        run_in_parts(["a"], "two", stop, out)


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
