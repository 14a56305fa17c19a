"""``--merge`` of the verbs that only run a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.tiny import TINY
from vitrail.contracts import VitrailError
from vitrail.jobs.bulk import write_part
from vitrail.jobs.embed import EmbedConfig, embed
from vitrail.jobs.evaluate import EvaluateConfig, evaluate
from vitrail.jobs.explain import ExplainConfig, explain
from vitrail.jobs.models import open_model, weights_digest
from vitrail.jobs.predict import predict
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.probe import ProbeConfig, probe
from vitrail.models import MAEConfig, MaskedAutoencoder, build, config_of
from vitrail.speed import merged
from vitrail.weights import Artefact

SWIN = "swin_tiny_patch4_window7_224"
HERE = {"device": "cpu", "precision": "fp32", "workers": 0}


def test_vectors_change_a_little_and_it_is_said(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for merge in (0, 1):
        out = tmp_path / f"{merge}.csv"
        config = EmbedConfig(source=str(photos / "red"), model=str(trained), merge=merge, out=out, **HERE)
        found[merge] = np.array([row["embedding"] for row in embed(config)])
        assert ("every block merges 1 patches" in capsys.readouterr().err) == (merge == 1)
    apart = np.linalg.norm(found[0] - found[1]) / np.linalg.norm(found[0])
    assert 0 < apart < 0.5


def test_parts_of_another_count_are_not_mixed(trained: Path, photos: Path, tmp_path: Path) -> None:
    model = open_model(str(trained)).model
    digests = {weights_digest(merged(model, count)) for count in (0, 1, 2)}
    assert len(digests) == 3
    out = tmp_path / "rows.csv"
    config = {"source": str(photos / "red"), "model": str(trained), "out": out, **HERE}
    parts = out.with_name(f".{out.name}.parts")
    parts.mkdir()
    (parts / "fingerprint").write_text("that of a job without merging")
    write_part([], parts / f"{0:012d}.npz")
    with pytest.raises(VitrailError, match="another job"):
        embed(EmbedConfig(**config, merge=1))


def test_classifiers_answer_and_are_scored(trained: Path, photos: Path, tmp_path: Path) -> None:
    rows = predict(PredictConfig(source=str(photos), model=str(trained), merge=1, out=tmp_path / "rows.csv", **HERE))
    right = sum(row["label"] == Path(row["name"]).parent.name for row in rows)
    assert right >= 0.9 * len(rows)
    result = evaluate(EvaluateConfig(model=str(trained), merge=1, out=tmp_path / "scores", **HERE))
    assert result.scores.accuracy > 0.8
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["merge"] == 1
    assert "merge: 1" in (tmp_path / "scores" / "config.yaml").read_text()


def test_probes_keep_their_features_apart(trained: Path, photos: Path, tmp_path: Path) -> None:
    config = {"data": str(photos), "model": str(trained), "k": 3, **HERE}
    result = probe(ProbeConfig(**config, merge=1, out=tmp_path / "merged"))
    assert result.linear.accuracy > 0.8
    assert json.loads((tmp_path / "merged" / "metrics.json").read_text())["merge"] == 1


def test_maps_are_drawn_on_the_whole_grid(trained: Path, photos: Path, tmp_path: Path) -> None:
    picture = photos / "red" / "00.png"
    explain(ExplainConfig(source=str(picture), model=str(trained), merge=1, out=tmp_path / "maps", **HERE))
    maps = np.load(tmp_path / "maps" / "00" / "maps.npz")
    for kind in ("attention", "rollout", "relevance", "grad_cam", "norms"):
        assert kind in maps.files
    assert maps["attention"].shape == maps["rollout"].shape == maps["relevance"].shape == (2, 2)
    rows = np.load(tmp_path / "maps" / "00" / "attention.npz")
    assert np.allclose(rows["weights_01"].sum(axis=-1), 1)


def test_of_a_masked_autoencoder_the_encoder_merges(photos: Path, tmp_path: Path) -> None:
    numbers = {"embed_dim": 16, "depth": 2, "num_heads": 2, "decoder_embed_dim": 16, "decoder_depth": 1}
    config = MAEConfig(img_size=16, patch_size=4, decoder_num_heads=2, **numbers)
    preprocess = open_model("vit_tiny_patch16_224", {"img_size": 16, "patch_size": 8}, pretrained=False).preprocess
    Artefact(MaskedAutoencoder(config), (), preprocess).save_pretrained(tmp_path / "mae")
    out = tmp_path / "rows.csv"
    rows = embed(EmbedConfig(source=str(photos / "red"), model=str(tmp_path / "mae"), merge=2, out=out, **HERE))
    assert len(rows) == 12 and len(rows[0]["embedding"]) == 16


def test_other_models_and_negative_counts_are_refused(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    swin = build(config_of(SWIN, {**TINY[SWIN], "num_classes": 0}))
    preprocess = open_model("vit_tiny_patch16_224", {"img_size": 56, "patch_size": 8}, pretrained=False).preprocess
    Artefact(swin, (), preprocess).save_pretrained(tmp_path / "swin")
    config = {"source": str(photos / "red"), "model": str(tmp_path / "swin"), "out": tmp_path / "rows.csv", **HERE}
    with pytest.raises(VitrailError, match="Swin cannot be merged"):
        embed(EmbedConfig(**config, pool="mean", merge=1))
    with pytest.raises(VitrailError, match="merge must be at least 0"):
        EmbedConfig(**config, merge=-1)
