"""``vitrail predict`` with a detector: a photograph, converted random weights, boxes in a table and drawn."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.detr_peers import peer
from vitrail.contracts import VitrailError
from vitrail.data import Preprocess, read_picture
from vitrail.heads import detections
from vitrail.jobs.detect import draw_boxes
from vitrail.jobs.predict import predict
from vitrail.jobs.predict_config import PredictConfig
from vitrail.models import Detr
from vitrail.weights import Artefact, convert, load_artefact

pytest.importorskip("transformers")
skimage_data = pytest.importorskip("skimage.data")

HERE = {"device": "cpu", "precision": "fp32", "workers": 0}
CLASSES = ["N/A", "cat", "cup", "rocket"]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact converted from a folder of Transformers, with small pictures for speed."""
    root = tmp_path_factory.mktemp("detector")
    theirs = peer("own")
    theirs.config.id2label = dict(enumerate(CLASSES))
    theirs.save_pretrained(root / "hub")
    stored = {"size": {"shortest_edge": 64, "longest_edge": 96}, "image_processor_type": "DetrImageProcessor"}
    (root / "hub" / "preprocessor_config.json").write_text(json.dumps(stored))
    convert(root / "hub", root / "model", to="vitrail")
    return root / "model"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "more").mkdir()
    Image.fromarray(skimage_data.chelsea()).save(folder / "cat.png")
    Image.fromarray(np.rot90(skimage_data.coffee())).save(folder / "more" / "cat.png")
    return folder


def test_boxes_of_a_photograph_in_its_own_pixels(detector: Path, photographs: Path, tmp_path: Path) -> None:
    picture = photographs / "cat.png"
    out, draw = tmp_path / "boxes.csv", tmp_path / "drawn"
    rows = predict(PredictConfig(source=str(picture), model=str(detector), threshold=0.2, out=out, draw=draw, **HERE))
    artefact = load_artefact(detector)
    assert artefact.preprocess == Preprocess((64, 96), 1.0, "bounded", "bilinear") and artefact.classes == tuple(
        CLASSES
    )
    assert isinstance(artefact.model, Detr)
    with torch.inference_mode():
        answer = artefact.model(artefact.preprocess(read_picture(picture))[None])
    (expected,) = detections(answer.logits, answer.boxes, [(300, 451)], 0.2)
    assert 0 < len(rows) == len(expected.scores) <= 7
    for row, score, label, box in zip(rows, *(values.tolist() for values in expected), strict=True):
        assert row["name"] == str(picture) and row["label"] == CLASSES[label]
        assert row["score"] == pytest.approx(score, abs=1e-5)
        limits = (451, 300, 451, 300)
        inside = [min(max(place, 0), limit) for place, limit in zip(box, limits, strict=True)]
        assert [row[corner] for corner in ("x0", "y0", "x1", "y1")] == pytest.approx(inside, abs=0.02)
    stored = list(csv.DictReader(out.open()))
    assert [list(row) for row in stored] == [["name", "label", "score", "x0", "y0", "x1", "y1"]] * len(rows)
    drawn = np.asarray(Image.open(draw / "cat.png"))
    assert drawn.shape == (300, 451, 3) and (drawn != np.asarray(Image.open(picture))).any()


def test_pictures_of_different_sizes_share_a_batch(detector: Path, photographs: Path, tmp_path: Path) -> None:
    """Padded with a mask, a picture has nearly the boxes that it has alone, where its border pixels see zeros too."""
    options = {"source": str(photographs), "model": str(detector), "threshold": 0.0, **HERE}
    together = predict(PredictConfig(out=tmp_path / "a.jsonl", draw=tmp_path / "drawn", batch_size=2, **options))
    alone = predict(PredictConfig(out=tmp_path / "b.jsonl", batch_size=1, **options))
    assert [row["name"] for row in together] == [row["name"] for row in alone]
    assert {row["name"] for row in together} == {str(photographs / "cat.png"), str(photographs / "more" / "cat.png")}
    assert len(together) == 14
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["cat-2.png", "cat.png"]
    assert Image.open(tmp_path / "drawn" / "cat-2.png").size == (400, 600)
    scores = [sorted(row["score"] for row in rows) for rows in (together, alone)]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
    assert all(0 <= row["x0"] <= row["x1"] <= 451 and 0 <= row["y0"] <= row["y1"] <= 600 for row in together)


def test_broken_pictures_are_left_out_or_stop_the_job(detector: Path, photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    Image.open(photographs / "cat.png").save(tmp_path / "in" / "good.png")
    options = {"source": str(tmp_path / "in"), "model": str(detector), "threshold": 0.0, **HERE}
    with pytest.raises(VitrailError, match=r"broken\.png"):
        predict(PredictConfig(out=tmp_path / "a.csv", **options))
    config = PredictConfig(out=tmp_path / "b.csv", draw=tmp_path / "drawn", on_error="skip", **options)
    assert {Path(row["name"]).name for row in predict(config)} == {"good.png"}
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["good.png"]
    alone = PredictConfig(out=tmp_path / "c.csv", on_error="skip", batch_size=1, **options)
    assert {Path(row["name"]).name for row in predict(alone)} == {"good.png"}
    with pytest.raises(VitrailError, match="every picture was broken"):
        broken = {**options, "source": str(tmp_path / "in" / "broken.png"), "out": tmp_path / "d.csv"}
        predict(PredictConfig(**broken, on_error="skip"))


def test_boxes_are_drawn_on_pictures_whose_names_no_table_holds(
    detector: Path, photographs: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    Image.open(photographs / "cat.png").save(tmp_path / "in" / "\udcff.png")
    options = {"source": str(tmp_path / "in"), "model": str(detector), "threshold": 0.0, **HERE}
    rows = predict(PredictConfig(out=tmp_path / "a.csv", draw=tmp_path / "drawn", **options))
    assert {row["name"] for row in rows} == {f"{tmp_path}/in/\\udcff.png"}
    (drawn,) = (tmp_path / "drawn").iterdir()
    assert (np.asarray(Image.open(drawn)) != np.asarray(Image.open(photographs / "cat.png"))).any()


def test_nothing_found_is_no_row_and_an_unchanged_picture(detector: Path, photographs: Path, tmp_path: Path) -> None:
    picture = photographs / "cat.png"
    options = {"source": str(picture), "model": str(detector), "out": tmp_path / "a.jsonl", **HERE}
    assert predict(PredictConfig(threshold=1.0, draw=tmp_path / "drawn", **options))[:] == []
    assert (tmp_path / "a.jsonl").read_text() == ""
    assert np.array_equal(np.asarray(Image.open(tmp_path / "drawn" / "cat.png")), np.asarray(Image.open(picture)))


def test_bf16_finds_nearly_the_same(detector: Path, photographs: Path, tmp_path: Path) -> None:
    options = {"source": str(photographs / "cat.png"), "model": str(detector), "threshold": 0.0, "device": "cpu"}
    rows = [
        predict(PredictConfig(out=tmp_path / f"{precision}.csv", precision=precision, workers=0, **options))
        for precision in ("fp32", "bf16")
    ]
    scores = [sorted(row["score"] for row in part) for part in rows]
    assert scores[0] == pytest.approx(scores[1], abs=0.05) and scores[0] != scores[1]


def test_models_without_classes_and_impossible_thresholds_are_refused(
    detector: Path, photographs: Path, tmp_path: Path
) -> None:
    options = {"source": str(photographs), "out": tmp_path / "a.csv", **HERE}
    with pytest.raises(VitrailError, match=r"threshold must lie in 0 … 1, not 70"):
        predict(PredictConfig(model=str(detector), threshold=70.0, **options))
    known = load_artefact(detector)
    Artefact(known.model, (), known.preprocess).save_pretrained(tmp_path / "nameless")
    with pytest.raises(VitrailError, match="no classes of its own"):
        predict(PredictConfig(model=str(tmp_path / "nameless"), **options))


def test_boxes_are_drawn_where_they_are_each_class_in_its_colour() -> None:
    grey = Image.new("L", (200, 100), 128)
    corners = {"x0": 20.0, "y0": 30.0, "x1": 60.0, "y1": 80.0}
    rows = [
        {"label": "cat", "score": 0.9, **corners},
        {"label": "cup", "score": 0.8, **corners, "x0": 120.0, "x1": 180.0},
    ]
    drawn = np.asarray(draw_boxes(grey, rows, CLASSES)).astype(int)
    left, right = drawn[70, 20], drawn[70, 120]
    assert np.abs(left - 128).max() > 20 and np.abs(right - 128).max() > 20 and not np.array_equal(left, right)
    assert (drawn[70, 30:55] == 128).all() and (drawn[70, 65:115] == 128).all()
