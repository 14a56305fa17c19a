"""``vitrail train --teacher``: a small ResNet teaches a small transformer."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.jobs.tiny import tiny_config
from vitrail.cli import main
from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.jobs.teacher import class_order, open_teacher
from vitrail.jobs.train import train
from vitrail.weights import Artefact

SMALL_RESNET = ("depths=[1,1,1,1]", "stem=small")


@pytest.fixture(scope="module")
def teacher(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a convolutional teacher that was trained from nothing at 28 pixels."""
    out = tmp_path_factory.mktemp("teachers") / "resnet"
    config = tiny_config(
        photos, out, model="resnet18", image_size=28, patch_size=None, model_options=SMALL_RESNET, epochs=10, lr=1e-3
    )
    result = train(replace(config, report=False))
    assert result is not None and result.scores.accuracy == 1.0
    return out


@pytest.mark.parametrize(
    ("kind", "options"), [("hard", ("distilled=true",)), ("soft", ("distilled=true",)), ("hard", ())]
)
def test_a_student_learns_from_it_and_keeps_nothing_of_it(
    teacher: Path, photos: Path, tmp_path: Path, kind: str, options: tuple[str, ...]
) -> None:
    before = (teacher / "model" / "model.safetensors").read_bytes()
    config = tiny_config(photos, tmp_path / "run", teacher=str(teacher), distillation=kind, report=False)
    config = replace(config, model_options=(*config.model_options, *options))
    result = train(config)
    assert result is not None and result.scores.accuracy == 1.0
    assert (teacher / "model" / "model.safetensors").read_bytes() == before
    stored = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert not any("teacher" in name or "layer1" in name for name in stored)
    assert ("head_dist.weight" in stored) == bool(options)
    checkpoint = load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert not any("teacher" in name or "layer1" in name for name in checkpoint)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert {"label_loss", "teacher_loss", "teacher_agreement"} <= rows[0].keys()
    assert float(rows[-1]["teacher_loss"]) < float(rows[0]["teacher_loss"])


def test_the_command_line_goes_on_only_with_the_same_teacher(teacher: Path, photos: Path, tmp_path: Path) -> None:
    config = tiny_config(photos, tmp_path / "run", teacher=str(teacher), epochs=1, report=False)
    train(config)
    with pytest.raises(VitrailError, match="distillation was"):
        train(replace(config, distillation="soft"))
    other = tmp_path / "other"
    artefact = Artefact.from_pretrained(teacher / "model")
    with torch.no_grad():
        artefact.model.head.bias.add_(1.0)
    artefact.save_pretrained(other / "model")
    (tmp_path / "run" / "config.yaml").write_text(
        (tmp_path / "run" / "config.yaml").read_text().replace(str(teacher), str(other))
    )
    with pytest.raises(VitrailError, match="teacher: was"):
        train(replace(config, teacher=str(other)))
    arguments = ["train", "--config", str(tmp_path / "run" / "config.yaml"), "--out", str(tmp_path / "again")]
    main([*arguments, "--distillation", "soft", "--distillation-temperature", "2"])
    assert (tmp_path / "again" / "model" / "model.safetensors").exists()


def test_classes_must_agree_by_name(teacher: Path, photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name, target in (("blue", "blue"), ("crimson", "red"), ("green", "green")):
        (data / name).symlink_to(photos / target)
    with pytest.raises(VitrailError, match="does not know crimson; it also knows red"):
        train(tiny_config(data, tmp_path / "run", teacher=str(teacher)))
    seen = Preprocess(size=(16, 16))
    with pytest.raises(VitrailError, match="it also knows red"):
        open_teacher(str(teacher), ("blue", "green"), seen)
    unnamed = Artefact.from_pretrained(teacher / "model")
    Artefact(unnamed.model, (), unnamed.preprocess).save_pretrained(tmp_path / "unnamed")
    with pytest.raises(VitrailError, match="its classes have no names"):
        open_teacher(str(tmp_path / "unnamed"), ("blue", "green", "red"), seen)


def test_the_same_classes_in_another_order_are_sorted_out(teacher: Path) -> None:
    assert class_order(("b", "a", "c"), ("a", "b", "c"), "it") == [1, 0, 2]
    assert class_order(("a", "b"), ("a", "b"), "it") is None
    images = torch.randn(2, 3, 28, 28)
    seen = Artefact.from_pretrained(teacher / "model").preprocess
    straight = open_teacher(str(teacher), ("blue", "green", "red"), seen).logits(images)
    turned = open_teacher(str(teacher), ("red", "blue", "green"), seen).logits(images)
    assert torch.equal(turned, straight[:, [2, 0, 1]])


def test_a_run_that_is_cut_off_goes_on_to_the_same_weights(teacher: Path, photos: Path, tmp_path: Path) -> None:
    """A checkpoint holds the student alone; the teacher is read again."""
    from vitrail.engine import Interrupted
    from vitrail.methods import distill

    config = tiny_config(photos, tmp_path / "whole", teacher=str(teacher), epochs=3, report=False, hflip=0.5)
    train(config)
    calls = 0
    forward = distill.Distill.forward

    def stop_later(self, batch, progress):
        nonlocal calls
        calls += 1
        if calls == 5:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, batch, progress)

    cut = replace(config, out=tmp_path / "cut")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(distill.Distill, "forward", stop_later)
        train(cut)
    train(cut)
    whole, again = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
