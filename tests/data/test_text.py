"""Sentences to token numbers: CLIP's and SigLIP's ways, held to open_clip's."""

from __future__ import annotations

import json

import pytest
import torch

from tests.jobs.words import tokenizer_json
from vitrail.contracts import VitrailError
from vitrail.data import TextTokenizer
from vitrail.data.text import canonical

SENTENCES = (
    "a photo of a cat.",
    "  It's   2 DOGS, isn't it?! ",
    "Käse — naïve café £5 日本語 🙂",
    "they'll've done it, we're sure; I'd say \"yes\" @home #1",
    "x" * 400,
    "",
)


@pytest.fixture(scope="module")
def theirs():
    """open_clip's tokenizer with CLIP's own vocabulary of 49,408 tokens."""
    return pytest.importorskip("open_clip.tokenizer").SimpleTokenizer(clean="lower")


@pytest.fixture(scope="module")
def clip_files(theirs) -> dict[str, str]:
    """The same vocabulary as the two files that lie beside CLIP's weights."""
    merges = "\n".join(" ".join(pair) for pair in theirs.bpe_ranks)
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in theirs.encoder.items()}
    return {"vocab.json": json.dumps(vocabulary), "merges.txt": f"#version: 0.2\n{merges}\n"}


def test_clip_sentences_equal_open_clip(theirs, clip_files: dict[str, str]) -> None:
    ours = TextTokenizer(clip_files, 77, 49408, end_token=49407, pad_token=0)
    expected = theirs(list(SENTENCES))
    assert ours(SENTENCES).shape == (6, 77)
    for sentence, row, wanted in zip(SENTENCES, ours(SENTENCES), expected, strict=True):
        assert torch.equal(row, wanted), sentence


def test_clip_sentences_equal_transformers_and_a_file_of_its_own(clip_files: dict[str, str]) -> None:
    transformers = pytest.importorskip("transformers")
    merges = [tuple(line.split()) for line in clip_files["merges.txt"].splitlines()[1:]]
    theirs = transformers.CLIPTokenizer(vocab=json.loads(clip_files["vocab.json"]), merges=merges)
    expected = theirs(list(SENTENCES), padding="max_length", max_length=77, truncation=True)["input_ids"]
    for files in (clip_files, {"tokenizer.json": theirs.backend_tokenizer.to_str()}):
        ours = TextTokenizer(files, 77, 49408, end_token=49407, pad_token=49407)
        assert ours(SENTENCES).tolist() == expected


def test_siglip_sentences_are_canonical_padded_and_ended_once() -> None:
    files = {"tokenizer.json": tokenizer_json("siglip")}
    ours = TextTokenizer(files, 6, 12, end_token=1, pad_token=1, clean="canonical")
    rows = ours(["A photo, of a CAT!", "a  dog a dog a dog a dog"])
    assert rows.tolist() == [[2, 3, 4, 2, 5, 1], [2, 6, 2, 6, 2, 1]]
    padded = TextTokenizer(files, 6, 12, end_token=1, pad_token=0, clean="lower")
    assert padded(["a cat"]).tolist() == [[2, 5, 1, 0, 0, 0]]


@pytest.mark.parametrize("text", SENTENCES)
def test_canonical_form_equals_open_clip(text: str) -> None:
    assert canonical(text) == pytest.importorskip("open_clip.tokenizer").canonicalize_text(text)


def test_what_is_no_tokenizer_or_another_one_is_refused() -> None:
    with pytest.raises(VitrailError, match="without its tokenizer"):
        TextTokenizer({"vocab.json": "{}"}, 8, 12, 1, 1)
    with pytest.raises(VitrailError, match="cannot be read"):
        TextTokenizer({"tokenizer.json": '{"model": 3}'}, 8, 12, 1, 1)
    with pytest.raises(VitrailError, match="has 12 tokens but the model knows 11"):
        TextTokenizer({"tokenizer.json": tokenizer_json("clip")}, 8, 11, 1, 1)
    with pytest.raises(VitrailError, match="no texts"):
        TextTokenizer({"tokenizer.json": tokenizer_json("clip")}, 8, 12, 11, 1)([])
