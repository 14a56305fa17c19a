"""Captions in a table reach the batch as the tokens that the tokenizer makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.data.finished import FinishedLoader
from tests.jobs.words import WORDS, tokenizer_json
from vitrail.contracts import VitrailError
from vitrail.data import CaptionedSource, CsvSource, Preprocess, TextTokenizer, TrainTransform
from vitrail.data.sources import open_captions

pytest.importorskip("tokenizers")
ROWS = ["a.png,a photo of a cat", 'b.png,"a drawing, a dog"', "a.png,a cat", "c.png,woman"]


@pytest.fixture
def tokenize() -> TextTokenizer:
    return TextTokenizer({"tokenizer.json": tokenizer_json("clip")}, 8, len(WORDS), end_token=11, pad_token=11)


def table(folder: Path, rows: list[str], header: str = "image,caption") -> Path:
    for number, name in enumerate("abc"):
        Image.new("RGB", (8, 8), (50 * number,) * 3).save(folder / f"{name}.png")
    (folder / "pairs.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder / "pairs.csv"


@pytest.mark.parametrize("workers", [0, 1])
def test_each_picture_comes_with_its_own_caption(tmp_path: Path, tokenize: TextTokenizer, workers: int) -> None:
    source = CaptionedSource(CsvSource(table(tmp_path, ROWS), labelled=False, captioned=True), tokenize)
    loader = FinishedLoader(source, TrainTransform(Preprocess(size=(8, 8))), batch_size=4, seed=3, workers=workers)
    (batch,) = loader.epoch(0)
    loader.close()
    assert batch.labels is None and batch.extras["caption"].dtype == torch.int64
    sentences = ["a photo of a cat", "a drawing, a dog", "a cat", "woman"]
    for index, row in zip(batch.indices.tolist(), batch.extras["caption"], strict=True):
        assert torch.equal(row, tokenize([sentences[index]])[0])
    assert sorted(batch.indices.tolist()) == [0, 1, 2, 3]


def test_a_split_column_or_a_seeded_share_is_held_out(tmp_path: Path, tokenize: TextTokenizer) -> None:
    train, val = open_captions(table(tmp_path, ROWS), tokenize, val_fraction=0.25)
    assert len(train) + len(val) == 4 and val.extras(0)["caption"].shape == (8,)
    rows = [f"{row},{part}" for row, part in zip(ROWS, ("train", "val", "train", "train"), strict=True)]
    train, val = open_captions(table(tmp_path, rows, "image,caption,split"), tokenize)
    assert [Path(train.name(n)).name for n in range(3)] == ["a.png", "a.png", "c.png"]
    assert torch.equal(val.extras(0)["caption"], tokenize(["a drawing, a dog"])[0])


@pytest.mark.parametrize("seed", range(6))
def test_a_picture_is_held_out_with_all_of_its_captions(tmp_path: Path, tokenize: TextTokenizer, seed: int) -> None:
    rows = [f"{'./' * (number % 2)}{name}.png,a cat" for number in range(5) for name in "abc"]
    train, val = open_captions(table(tmp_path, rows), tokenize, val_fraction=0.3, seed=seed)
    assert (len(train), len(val)) == (10, 5)
    learned, held = ({Path(part.name(n)).name for n in range(len(part))} for part in (train, val))
    assert len(held) == 1 and len(learned) == 2 and not held & learned


@pytest.mark.parametrize(
    ("header", "rows", "reason"),
    [
        ("image,text", ["a.png,a cat"], r"lacks the column caption; it has: image, text"),
        ("caption", ["a cat"], "lacks the column image"),
        ("image,caption", ["a.png,a cat", "b.png,  "], r"line 3: .*b\.png has no caption"),
        ("image,caption", ["a.png"], r"line 2: .*a\.png has no caption"),
        ("image,caption", ["z.png,a cat"], r"1 of 1 pictures do not exist: line 2"),
        ("image,caption", [], "lists no pictures"),
        ("image,caption,split", ["a.png,a cat,train"], "no row has the split 'val'"),
    ],
)
def test_tables_that_cannot_be_used_say_why(
    header: str, rows: list[str], reason: str, tmp_path: Path, tokenize: TextTokenizer
) -> None:
    with pytest.raises(VitrailError, match=reason):
        open_captions(table(tmp_path, rows, header), tokenize)


def test_captions_are_ignored_where_they_are_not_asked_for(tmp_path: Path, tokenize: TextTokenizer) -> None:
    path = table(tmp_path, ["a.png,", "b.png,"])
    plain = CsvSource(path, labelled=False)
    assert plain.captions == ()
    with pytest.raises(VitrailError, match="opened without its captions"):
        CaptionedSource(plain, tokenize)
