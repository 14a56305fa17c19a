"""Zero-shot classification of a photograph by converted models with random weights: held to Transformers' numbers."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.jobs.words import image_text_folder
from vitrail.cli import main
from vitrail.contracts import VitrailError
from vitrail.data import read_picture
from vitrail.jobs.predict import predict
from vitrail.jobs.predict_config import PredictConfig
from vitrail.weights import Artefact, convert

transformers = pytest.importorskip("transformers")
skimage_data = pytest.importorskip("skimage.data")

HERE = {"device": "cpu", "precision": "fp32", "workers": 0}
LABELS = ("cat", "dog", "woman")
IDS = {
    "clip": {
        "a photo of a cat": [10, 2, 3, 4, 2, 5, 11, 11],
        "a photo of a dog": [10, 2, 3, 4, 2, 6, 11, 11],
        "a photo of a woman": [10, 2, 3, 4, 2, 7, 11, 11],
        "a drawing of a cat": [10, 2, 8, 4, 2, 5, 11, 11],
        "a drawing of a dog": [10, 2, 8, 4, 2, 6, 11, 11],
        "a drawing of a woman": [10, 2, 8, 4, 2, 7, 11, 11],
    },
    "siglip": {
        "a photo of a cat": [2, 3, 4, 2, 5, 1, 1, 1],
        "a photo of a dog": [2, 3, 4, 2, 6, 1, 1, 1],
        "a photo of a woman": [2, 3, 4, 2, 7, 1, 1, 1],
        "a drawing of a cat": [2, 8, 4, 2, 5, 1, 1, 1],
        "a drawing of a dog": [2, 8, 4, 2, 6, 1, 1, 1],
        "a drawing of a woman": [2, 8, 4, 2, 7, 1, 1, 1],
    },
}
"""Token numbers worked out by hand from the tiny vocabulary."""


@pytest.fixture(scope="module")
def astronaut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph of a woman, 512 × 400."""
    path = tmp_path_factory.mktemp("pictures") / "astronaut.png"
    Image.fromarray(skimage_data.astronaut()[:400]).save(path)
    return path


def expected(kind: str, theirs: torch.nn.Module, folder: Path, picture: Path, templates: list[str]) -> torch.Tensor:
    """Probabilities of the labels, from Transformers' vectors and its logit scale alone."""
    preprocess = convert_preprocess(folder)
    image = preprocess(read_picture(picture))[None]
    ids = torch.tensor([IDS[kind][t.format(label)] for label in LABELS for t in templates])
    with torch.no_grad():
        out = theirs(pixel_values=image, input_ids=ids)
        classes = out.text_embeds.unflatten(0, (len(LABELS), -1)).mean(1)
        classes = classes / classes.norm(dim=1, keepdim=True)
        logits = theirs.logit_scale.exp() * out.image_embeds @ classes.T
        return logits.softmax(1)[0] if kind == "clip" else (logits + theirs.logit_bias).sigmoid()[0]


def convert_preprocess(folder: Path):
    from vitrail.weights import load_checkpoint

    return load_checkpoint(folder).preprocess


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("templates", [["a photo of a {}"], ["a photo of a {}", "a drawing of a {}"]])
def test_probabilities_equal_transformers(kind: str, templates: list[str], astronaut: Path, tmp_path: Path) -> None:
    theirs = image_text_folder(kind, tmp_path / "hub")
    config = PredictConfig(
        source=str(astronaut),
        model=str(tmp_path / "hub"),
        labels=LABELS,
        template=tuple(templates),
        out=tmp_path / "answers.csv",
        **HERE,
    )
    (row,) = predict(config)
    wanted = expected(kind, theirs, tmp_path / "hub", astronaut, templates)
    found = dict(zip(row["top_labels"], row["top_confidences"], strict=True))
    assert [found[label] for label in LABELS] == pytest.approx(wanted.tolist(), abs=2e-5)
    assert row["label"] == LABELS[int(wanted.argmax())] and row["top_confidences"] == sorted(found.values())[::-1]
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-5) or kind == "siglip"
    (stored,) = csv.DictReader((tmp_path / "answers.csv").open())
    assert stored["label"] == row["label"] and float(stored["confidence"]) == row["confidence"]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_an_artefact_brings_its_tokenizer_and_answers_the_same(kind: str, astronaut: Path, tmp_path: Path) -> None:
    image_text_folder(kind, tmp_path / "hub")
    convert(tmp_path / "hub", tmp_path / "artefact", to="vitrail")
    convert(tmp_path / "artefact", tmp_path / "back", to="transformers")
    answers = [
        predict(
            PredictConfig(
                source=str(astronaut), model=str(folder), labels=LABELS, out=tmp_path / f"{folder.name}.jsonl", **HERE
            )
        )
        for folder in (tmp_path / "hub", tmp_path / "artefact", tmp_path / "back")
    ]
    assert answers[0] == answers[1] == answers[2]
    files = [folder / "tokenizer.json" for folder in (tmp_path / "hub", tmp_path / "artefact", tmp_path / "back")]
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()
    assert set(Artefact.from_pretrained(tmp_path / "artefact").files) == {"tokenizer.json"}


def test_the_command_line_writes_the_table_and_draws_the_answer(astronaut: Path, tmp_path: Path) -> None:
    image_text_folder("clip", tmp_path / "hub")
    line = ["predict", str(astronaut), "--model", str(tmp_path / "hub"), "--labels", "cat", "dog", "--device", "cpu"]
    main([*line, "--template", "a photo of a {}", "--out", str(tmp_path / "a.csv"), "--draw", str(tmp_path / "drawn")])
    (row,) = csv.DictReader((tmp_path / "a.csv").open())
    assert {row["top_labels_0"], row["top_labels_1"]} == {"cat", "dog"}
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["astronaut.png"]
    drawn = np.asarray(Image.open(tmp_path / "drawn" / "astronaut.png").convert("RGB")).astype(int)
    picture, bars = drawn[:, : drawn.shape[1] // 2], drawn[:, -500:]
    assert picture.std() > 40  # The photograph on the left …
    grey = (np.abs(bars - (0xE8, 0xEB, 0xF0)).sum(-1) < 6).any(axis=1)
    assert grey.any() and (np.diff(np.flatnonzero(grey)) > 1).sum() == 1  # … and two bars' tracks on the right.


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "give them with --labels, at least two"),
        ({"labels": ("cat",)}, "at least two"),
        ({"labels": ("cat", "dog", "cat")}, "the label 'cat' is given twice"),
        ({"labels": LABELS, "template": ("a photo",)}, "a sentence with {} where the label goes, not 'a photo'"),
        ({"labels": LABELS, "template": ()}, "not 'nothing'"),
    ],
)
def test_labels_and_templates_that_mean_nothing_are_refused(
    options: dict, reason: str, astronaut: Path, tmp_path: Path
) -> None:
    image_text_folder("clip", tmp_path / "hub")
    with pytest.raises(VitrailError, match=reason):
        predict(PredictConfig(source=str(astronaut), model=str(tmp_path / "hub"), out=tmp_path / "a.csv", **options))


def test_a_model_without_its_tokenizer_says_what_to_do(astronaut: Path, tmp_path: Path) -> None:
    image_text_folder("clip", tmp_path / "hub")
    (tmp_path / "hub" / "tokenizer.json").unlink()
    with pytest.raises(VitrailError, match=r"without its tokenizer: put tokenizer\.json"):
        predict(PredictConfig(source=str(astronaut), model=str(tmp_path / "hub"), labels=LABELS, **HERE))
