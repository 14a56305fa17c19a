"""``vitrail pretrain``: what a run leaves behind, with and without classes, and what can be done with it."""

import csv
import json
import multiprocessing
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.jobs.tiny import COLOURS, tiny_config
from tests.jobs.tiny_pretrain import pretrain_config, run
from vitrail.contracts import VitrailError
from vitrail.jobs.options import filled
from vitrail.jobs.pretrain import pretrain
from vitrail.jobs.pretraining.measure import Vectors
from vitrail.jobs.probe import ProbeConfig, probe
from vitrail.jobs.train import train
from vitrail.methods import MAEOptions
from vitrail.weights import Artefact


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on digits."""
    out = tmp_path_factory.mktemp("pretrained") / "run"
    sizes = ("in_channels=1", "depth=2", "embed_dim=64", "num_heads=2")
    decoder = ("decoder_embed_dim=32", "decoder_depth=1", "decoder_num_heads=2")
    shape = {"image_size": 16, "patch_size": 4, "model_options": sizes, "method_options": decoder}
    pretrain(pretrain_config(out, epochs=20, eval_every=8, lr=2e-3, measured=500, **shape))
    return out


def test_a_run_learns_and_shows_how(pretrained: Path) -> None:
    metrics = json.loads((pretrained / "metrics.json").read_text())
    rows = list(csv.DictReader((pretrained / "metrics.csv").open()))
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert {"val_knn", "val_feature_rank", "val_feature_deviation", "grad_norm"} <= rows[-1].keys()
    assert metrics["knn"] > 0.5 and metrics["feature_rank"] > 2
    sheets = sorted(file.name for file in (pretrained / "pictures").iterdir())
    assert sheets == ["epoch_00008.png", "epoch_00016.png", "epoch_00020.png"]
    assert Image.open(pretrained / "pictures" / sheets[0]).width > 300
    report = (pretrained / "report.html").read_text()
    places = [report.index(f"after epoch {epoch}<") for epoch in (8, 16, 20)]
    assert places == sorted(places)
    assert "Nearest neighbours" in report and "Feature rank" in report and "Gradient norm" in report
    artefact = Artefact.from_pretrained(pretrained / "model")
    assert artefact.classes == () and artefact.backbone.num_classes == 0
    assert not [name for name in artefact.model.state_dict() if "decoder" in name]


def test_its_features_beat_fresh_ones(pretrained: Path, tmp_path: Path) -> None:
    common = ProbeConfig(
        data="digits", model=str(pretrained), pool="mean", crop=1.0, device="cpu", workers=0, precision="fp32"
    )
    learnt = probe(replace(common, out=tmp_path / "learnt"))
    fresh = probe(replace(common, pretrained=False, out=tmp_path / "fresh"))
    assert learnt.knn.accuracy > fresh.knn.accuracy + 0.04
    few = probe(replace(common, shots=3, out=tmp_path / "few"))
    pictures = json.loads((tmp_path / "few" / "metrics.json").read_text())["pictures"]
    assert pictures["train"] == 30 and few.linear.accuracy < learnt.linear.accuracy
    some = probe(replace(common, train_limit=50, out=tmp_path / "some"))
    assert json.loads((some.out / "metrics.json").read_text())["pictures"]["train"] == 50
    with pytest.raises(VitrailError, match="contradict"):
        probe(replace(common, train_limit=50, shots=3, out=tmp_path / "both"))


def test_training_on_a_part_of_the_labels_starts_from_it(pretrained: Path, photos: Path, tmp_path: Path) -> None:
    config = tiny_config(photos, tmp_path / "run", model=str(pretrained), epochs=1, report=False, train_limit=100)
    config = replace(config, data="digits", pretrained=True, patch_size=None, image_size=None, model_options=())
    config = replace(config, lr=1e-6, min_lr=0.0, warmup_lr=0.0, batch_size=50)
    result = train(config)
    assert result is not None and len(result.artefact.classes) == 10
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["pictures"]["train"] == 100
    before = load_file(pretrained / "model" / "model.safetensors")["blocks.0.attn.qkv.weight"]
    after = result.artefact.model.state_dict()["blocks.0.attn.qkv.weight"]
    assert (before - after).abs().max() < 1e-4


def test_a_folder_of_pictures_without_classes_will_do(photos: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    for name in COLOURS:
        for file in (photos / name).iterdir():
            shutil.copy(file, loose / f"{name}-{file.name}")
    options = ("depth=2", "embed_dim=32", "num_heads=2")
    config = pretrain_config(tmp_path / "run", str(loose), model_options=options, batch_size=9, image_size=16)
    result = pretrain(replace(config, patch_size=4, epochs=2, pictured=3))
    assert result is not None and result.report is not None
    assert result.metrics.keys() == {"feature_rank", "feature_deviation"}
    assert len(list((tmp_path / "run" / "pictures").iterdir())) == 1
    with_classes = pretrain(replace(config, data=str(photos), patch_size=4, epochs=1, out=tmp_path / "two"))
    assert with_classes is not None and "knn" in with_classes.metrics
    ignored = replace(config, data=str(photos), patch_size=4, epochs=1, labels=False, report=False)
    without = pretrain(replace(ignored, out=tmp_path / "three"))
    assert without is not None and "knn" not in without.metrics


def test_simmim_trains_by_the_same_command(tmp_path: Path) -> None:
    config = pretrain_config(tmp_path / "run", method="simmim", method_options=("square=4",), epochs=3, report=False)
    assert pretrain(config) is not None
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_training_can_go_on_from_weights(pretrained: Path, tmp_path: Path) -> None:
    config = pretrain_config(tmp_path / "run", model=str(pretrained), pretrained=True, epochs=1, lr=1e-6, report=False)
    result = pretrain(replace(config, model_options=(), patch_size=None, image_size=None))
    assert result is not None
    before = load_file(pretrained / "model" / "model.safetensors")["blocks.0.attn.qkv.weight"]
    assert (before - result.artefact.model.state_dict()["blocks.0.attn.qkv.weight"]).abs().max() < 1e-3


def test_processes_that_found_no_readable_picture_are_left_out_or_all_refused() -> None:
    found = Vectors(torch.ones(2, 3), torch.tensor([0, 1]))
    joined = Vectors.joined([None, found, found])
    assert joined.values.shape == (4, 3) and joined.labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(VitrailError, match="every picture to measure with was broken"):
        Vectors.joined([None, None])


def test_features_that_collapse_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A learning rate far too high drives all pictures to one feature; the log and the report say so."""
    pretrain(pretrain_config(tmp_path / "run", lr=30.0, warmup_fraction=0.0, epochs=2))
    assert "the features collapse" in " ".join(capsys.readouterr().err.split())
    assert "the features collapse" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "mea"}, "there is no method 'mea' for pretraining; there are mae"),
        ({"method_options": ("mask_rato=0.5",)}, "there is no mae option mask_rato; there are mask_ratio"),
        ({"method_options": ("mask_ratio=much",)}, "mask_ratio='much' is str, not float"),
        ({"method_options": ("mask_ratio",)}, "not of the form name=value"),
        (
            {"model": "resnet18", "image_size": 32, "patch_size": None, "model_options": ("in_channels=1",)},
            "mae trains",
        ),
        ({"data": "nowhere/at/all"}, "no such file or folder"),
    ],
)
def test_what_cannot_work_is_refused_by_name(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(VitrailError, match=message):
        pretrain(pretrain_config(tmp_path / "run", **changes))


def test_options_take_the_type_of_their_default() -> None:
    options = filled(MAEOptions, ("mask_ratio=6e-1", "normalise=false", "decoder-depth=2"), "mae option")
    assert options == MAEOptions(mask_ratio=0.6, normalise=False, decoder_depth=2)


@pytest.mark.timeout(200)
def test_kills_at_random_moments_end_bit_equal(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vitrail.jobs.pretrain", "tests.jobs.tiny_pretrain"])

    def start(name: str) -> multiprocessing.Process:
        process = context.Process(target=run, args=(str(tmp_path / name),))
        process.start()
        return process

    calm = start("calm")
    calm.join()
    assert calm.exitcode == 0
    checkpoint, kills = tmp_path / "killed" / "checkpoint.safetensors", 0
    for pause in (0.0, 0.15, 0.3):
        seen = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = start("killed")
        while process.is_alive() and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == seen):
            time.sleep(0.01)
        time.sleep(pause)
        process.kill()  # which takes it that the run may have ended by itself
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    last = start("killed")
    last.join()
    assert last.exitcode == 0 and kills >= 2
    expected, found = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("calm", "killed"))
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    tables = [list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("calm", "killed")]
    calm_losses, killed_losses = ([row["loss"] for row in table] for table in tables)
    assert calm_losses == killed_losses
