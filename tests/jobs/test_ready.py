"""What a job says and remembers of how it runs its model."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import Tensor

from tests.models.tiny import TINY
from vitrail.engine import Precision
from vitrail.jobs.embed import FeatureVector
from vitrail.jobs.inference import Hardware, make_ready
from vitrail.jobs.models import weights_digest
from vitrail.models import VisionTransformer, build, config_of
from vitrail.speed.packed import missing_operators

CPU = torch.device("cpu")


def tiny() -> VisionTransformer:
    torch.manual_seed(0)
    model = build(config_of("vit_tiny_patch16_224", TINY["vit_tiny_patch16_224"]))
    assert isinstance(model, VisionTransformer)
    return model.eval()


@pytest.mark.skipif(bool(missing_operators()), reason=missing_operators() or "packs")
def test_a_prepared_model_is_told_apart_and_gives_the_same_vectors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = import_module("vitrail.speed.prepare")
    monkeypatch.setattr(module, "remembered", lambda question, device, measure: [2.0, 1.0])
    model, images = tiny(), torch.randn(3, 3, 32, 32)
    plain = Hardware(CPU, Precision("bf16", "asked"))
    ready, hardware = make_ready(model, plain, 3)
    said = capsys.readouterr().err.strip()
    assert "9 linear layers packed" in said and "\n" not in said
    # Parts of an interrupted job belong to one of the two; the weights are the same.
    assert plain.form == "bf16" and hardware.form.startswith("bf16 packed")
    assert weights_digest(ready) == weights_digest(model)
    with torch.inference_mode():
        expected = plain.rows(FeatureVector(model, "class_mean"), images).float()
        found = hardware.rows(FeatureVector(ready, "class_mean"), images).float()
    assert float((found - expected).norm() / expected.norm()) < 0.02


@pytest.mark.skipif(bool(missing_operators()), reason=missing_operators() or "packs")
def test_bulk_work_takes_the_attention_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("vitrail.speed.prepare"), "remembered", lambda *question: [2.0, 1.0])
    asked: list[torch.Size] = []

    def watched(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        asked.append(query.shape)
        return query

    ready, hardware = make_ready(tiny(), Hardware(CPU, Precision("bf16", "asked")), 3)
    assert hardware.prepared is not None
    hardware = replace(hardware, prepared=replace(hardware.prepared, attention=watched))
    hardware.rows(FeatureVector(ready, "class"), torch.randn(3, 3, 32, 32))
    assert len(asked) == len(ready.blocks)


def test_in_fp32_vectors_are_the_plain_models() -> None:
    model, images = tiny(), torch.randn(3, 3, 32, 32)
    ready, hardware = make_ready(model, Hardware(CPU, Precision("fp32", "asked")), 3)
    assert hardware.form == "fp32"
    with torch.inference_mode():
        found = hardware.rows(FeatureVector(ready, "mean"), images)
        assert torch.equal(found, FeatureVector(model, "mean")(images))
