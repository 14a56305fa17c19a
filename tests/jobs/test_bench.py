from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from vitrail.contracts import VitrailError
from vitrail.jobs.bench import BenchConfig, bench, command_of
from vitrail.jobs.benching import contestants
from vitrail.jobs.benching.contestants import CONTESTANTS, Contestant
from vitrail.jobs.benching.photographs import write_photographs
from vitrail.speed.bench import Comparison

TINY = {"model_options": ("depth=1", "img_size=32"), "batch_size": (2,), "rounds": 1, "turn": 0.0, "threads": 1}


def test_inference_beside_timm_one_that_is_not_installed_and_one_that_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = Contestant({"inference": "ours:inference"}, ("no_such_package",))
    broken = Contestant({"inference": "ours:nobody"})
    monkeypatch.setattr(contestants, "CONTESTANTS", CONTESTANTS | {"away": away, "broken": broken})
    file, plot = tmp_path / "new" / "bench.json", tmp_path / "bench.png"
    config = BenchConfig(
        models=("vit_tiny_patch16_224",),
        against=("timm", "away", "broken"),
        precision="fp32",
        json=file,
        plot=plot,
        **TINY,
    )
    (found,) = bench(config)
    assert [row.name for row in found.rows] == ["vitrail", "timm"]
    for row in found.rows:
        assert row.error is not None and row.error < 1e-5
        assert row.slower > 0 and row.pictures_per_s == pytest.approx(2 / row.median)
    assert "fp32" in found.rows[1].notes and "attention" in found.rows[1].notes
    assert [one.name for one in found.missing] == ["away", "broken"]
    assert found.missing[0].reason == "no_such_package not installed"
    assert {"vitrail", "timm", "torch"} <= set(found.versions)
    shown = capsys.readouterr().out
    assert "not here: away (no_such_package not installed)" in shown and found.machine in shown
    assert command_of(config) in shown
    assert [Comparison.from_dict(one) for one in json.loads(file.read_text())["comparisons"]] == [found]
    with Image.open(plot) as picture:
        assert picture.width > 900


def test_a_training_step_has_the_gradient_of_timms() -> None:
    config = BenchConfig(models=("vit_tiny_patch16_224",), task="training", against=("timm",), precision="fp32", **TINY)
    ours, theirs = bench(config)[0].rows
    assert ours.error == 0.0
    assert theirs.error is not None and 0 < theirs.error < 1e-4
    assert "plain attention" in ours.notes and "fused attention" in theirs.notes


def test_a_step_of_mae_has_the_gradient_of_transformers_with_the_attention_that_was_asked_for() -> None:
    small = ("embed_dim=32", "num_heads=2", "decoder_embed_dim=32", "decoder_num_heads=2", "decoder_depth=1")
    config = BenchConfig(
        models=("mae_vit_base_patch16_224",),
        task="mae",
        against=("transformers-eager",),
        precision="fp32",
        **{**TINY, "model_options": (*TINY["model_options"], *small)},
    )
    _, theirs = bench(config)[0].rows
    assert theirs.error is not None and 0 < theirs.error < 1e-4
    assert "plain attention" in theirs.notes and "fused" not in theirs.notes


def test_input_is_timed_on_the_users_pictures(tmp_path: Path) -> None:
    write_photographs(tmp_path, 4, (64, 48))
    config = BenchConfig(task="input", image_size=32, data=tmp_path, batch_size=(2,), rounds=1, turn=0.0)
    (found,) = bench(config)
    assert [row.name for row in found.rows] == ["vitrail", "torchvision"]
    assert found.threads == 1 and all(row.error is None for row in found.rows)


def test_photographs_come_from_their_seed(tmp_path: Path) -> None:
    first, again = write_photographs(tmp_path / "a", 3), write_photographs(tmp_path / "b", 3)
    other = write_photographs(tmp_path / "c", 3, seed=1)
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in again]
    assert first[0].read_bytes() != other[0].read_bytes()
    with Image.open(first[2]) as picture:
        assert picture.size == (500, 375)


def test_wrong_questions_are_answered_with_what_there_is() -> None:
    with pytest.raises(VitrailError, match="there are timm"):
        BenchConfig(against=("tim",))
    with pytest.raises(VitrailError, match="torchvision does not know the task inference; timm"):
        BenchConfig(against=("torchvision",))
    with pytest.raises(VitrailError, match="fp32 or bf16, not 'int8'"):
        BenchConfig(against=("timm:int8",))
    with pytest.raises(VitrailError, match="rounds must be at least 1"):
        BenchConfig(rounds=0)
    with pytest.raises(VitrailError, match="batch_size must be at least 1"):
        BenchConfig(batch_size=())
    with pytest.raises(VitrailError, match="no classifier to train"):
        bench(
            BenchConfig(models=("vit_tiny_patch16_224",), task="training", model_options=("num_classes=0", "depth=1"))
        )
    with pytest.raises(VitrailError, match="did you mean vit_tiny_patch16_224"):
        bench(BenchConfig(models=("vit_tiny_patch16_22",)))


def test_the_command_repeats_what_was_asked() -> None:
    config = BenchConfig(models=("vit_tiny_patch16_224",), batch_size=(1, 16), against=("timm:fp32",), json=Path("x"))
    assert command_of(config) == "vitrail bench vit_tiny_patch16_224 --against timm:fp32 --batch-size 1 16"
