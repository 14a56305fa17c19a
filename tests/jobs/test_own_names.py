"""What is made of one picture never takes the place of what is made of another."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.contracts import VitrailError
from vitrail.jobs.detect import draw_detections
from vitrail.jobs.explain import ExplainConfig, explain
from vitrail.jobs.own_names import OwnNames
from vitrail.jobs.predict_classes import draw_answers

HERE = {"device": "cpu", "precision": "fp32", "workers": 0}


@pytest.fixture
def alike(tmp_path: Path) -> list[Path]:
    """Pictures of which the third would take the second's name if stems were only counted."""
    paths = [tmp_path / "in" / name for name in ("x/a.png", "y/a-2.png", "y/a.png")]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((24, 24, 3), 80 * number, np.uint8)).save(path)
    return paths


@pytest.mark.parametrize(
    ("stems", "names"),
    [
        (["a", "b", "a", "a"], ["a", "b", "a-2", "a-3"]),
        (["a", "a-2", "a"], ["a", "a-2", "a-3"]),
        (["a", "a", "a-2", "a-2"], ["a", "a-2", "a-2-2", "a-2-3"]),
        (["A", "a", "a-2"], ["A", "a-2", "a-2-2"]),
        (["\u00e9", "e\u0301"], ["\u00e9", "e\u0301-2"]),
        (["\udcff", "\udcff"], ["\udcff", "\udcff-2"]),
    ],
)
def test_no_two_names_are_one(stems: list[str], names: list[str]) -> None:
    own_name = OwnNames()
    assert [own_name(stem) for stem in stems] == names


def test_a_thousand_stems_alike_are_named_at_once() -> None:
    own_name = OwnNames()
    assert len({own_name("image") for _ in range(100_000)}) == 100_000


def test_every_picture_has_a_drawing_of_its_answer_and_of_its_boxes(alike: list[Path], tmp_path: Path) -> None:
    answer = {"top_labels": ["cat"], "top_confidences": [1.0]}
    answers = draw_answers([({"name": str(path), **answer}, str(path)) for path in alike], tmp_path / "answers")
    boxes = draw_detections([str(path) for path in alike], [], ["cat"], tmp_path / "boxes")
    for drawn in (answers, boxes):
        assert [path.name for path in drawn] == ["a.png", "a-2.png", "a-3.png"]
        assert len({path.read_bytes() for path in drawn}) == 3


def test_every_picture_has_a_folder_of_its_explanation(trained: Path, alike: list[Path], tmp_path: Path) -> None:
    options = {"model": str(trained), "kinds": ("pca",), "out": tmp_path / "out", **HERE}
    explained = explain(ExplainConfig(source=str(tmp_path / "in"), **options))
    assert [item.files[0].parent.name for item in explained] == ["a", "a-2", "a-3"]


def test_a_drawing_that_cannot_be_written_is_named_and_the_earlier_one_stays(
    alike: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Image.Image, path: Path, format: str | None = None) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (drawn,) = draw_detections([str(alike[0])], [], ["cat"], tmp_path / "boxes")
    before = drawn.read_bytes()
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(VitrailError, match=r"boxes/a\.png.*No space left"):
        draw_detections([str(alike[0])], [], ["cat"], tmp_path / "boxes")
    assert [path.name for path in drawn.parent.iterdir()] == ["a.png"] and drawn.read_bytes() == before
