"""Whose a run's folder is, and what is lost of an earlier run in it, and when."""

import errno
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.jobs.tiny import tiny_config
from tests.jobs.tiny_pretrain import pretrain_config
from tests.jobs.torchrun import in_two_processes
from vitrail.cli import parse
from vitrail.contracts import VitrailError
from vitrail.data import Splits, open_data
from vitrail.engine import CHECKPOINT, LOCK, World
from vitrail.jobs.claim import claim, pictures_fingerprint, take
from vitrail.jobs.pretrain import pretrain
from vitrail.jobs.run import write_metrics
from vitrail.jobs.train import train
from vitrail.jobs.training import Training
from vitrail.speed.bench.machine import machine


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(photos: Path, tmp_path: Path) -> Path:
    """The folder of a finished run that may be spoilt."""
    out = tmp_path / "run"
    train(tiny_config(photos, out, epochs=1))
    return out


@pytest.mark.parametrize("option", ["model", "teacher", "head"])
@pytest.mark.parametrize("below", ["", "model"])
def test_what_a_run_reads_is_not_removed_to_start_it_over(option: str, below: str, run: Path, photos: Path):
    before = contents(run)
    with pytest.raises(VitrailError, match=r"lies in .* the folder of a run that is to be started over"):
        train(tiny_config(photos, run, fresh=True, **{option: str(run / below)}))
    assert contents(run) == before


@pytest.mark.parametrize(
    ("method", "option"), [("dinov2", "heads"), ("distill_features", "teacher"), ("beit", "tokenizer")]
)
def test_nor_is_what_a_method_of_pretraining_reads(method: str, option: str, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("# Repeat with: vitrail pretrain --config x\ndata: digits\n")
    (tmp_path / "run" / CHECKPOINT).write_text("much work")
    config = pretrain_config(
        tmp_path / "run", method=method, method_options=(f"{option}={tmp_path / 'run'}",), fresh=True
    )
    with pytest.raises(VitrailError, match=r"lies in .* the folder of a run that is to be started over"):
        pretrain(config)
    assert (tmp_path / "run" / CHECKPOINT).read_text() == "much work"


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "vit_tinny", "model_options": (), "patch_size": None},
        {"teacher": "runs/mistaken"},
        {"head": "mistaken"},
        {"batch_size": 100},
        {"batch_size": 9, "accumulate": 2},
        {"model_options": ("depth=1", "embed_dim=20", "num_heads=3")},
        {"device": "cuda:99"},
        {"soft_labels": True},
    ],
)
def test_a_command_that_cannot_work_starts_nothing_over(changes: dict, run: Path, photos: Path):
    before = contents(run)
    with pytest.raises(VitrailError):
        train(tiny_config(photos, run, fresh=True, **changes))
    assert contents(run) == before


def test_nor_does_a_pretraining_that_cannot_work(tmp_path: Path):
    out = tmp_path / "run"
    pretrain(pretrain_config(out, epochs=1, report=False))
    before = contents(out)
    impossible: list[dict] = [{"model": "resnet18", "model_options": (), "patch_size": None}, {"batch_size": 10_000}]
    for changes in impossible:
        with pytest.raises(VitrailError):
            pretrain(pretrain_config(out, fresh=True, **changes))
    assert contents(out) == before
    pretrain(pretrain_config(out, epochs=2, eval_every=1, report=False, fresh=True))
    assert json.loads((out / "metrics.json").read_text())["resumed"] is False
    assert len(list((out / "pictures").iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"epochs": 0}, "epochs=0 must be at least 1"), ({"lr": 0.0}, "lr=0"), ({"betas": (0.9, 1.0)}, "betas")],
)
def test_numbers_without_which_nothing_trains_make_no_config(changes: dict, message: str, photos: Path, tmp_path: Path):
    with pytest.raises(VitrailError, match=message):
        tiny_config(photos, tmp_path / "run", **changes)


def test_a_run_that_is_started_over_does_not_go_on_and_its_config_does_not_start_it_over(run: Path, photos: Path):
    train(tiny_config(photos, run, epochs=2, report=False, fresh=True))
    facts = json.loads((run / "metrics.json").read_text())
    assert (facts["resumed"], facts["steps"]) == (False, 6)
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert "fresh" not in stored
    again = parse("train", ["--config", str(run / "config.yaml")])
    assert not again.fresh
    train(again)
    assert json.loads((run / "metrics.json").read_text())["resumed"] is True


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
@pytest.mark.parametrize("fresh", [True, False])
def test_a_folder_in_which_somebody_trains_is_left_alone(
    fresh: bool, run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
):
    import fcntl

    monkeypatch.setattr("vitrail.engine.lock._PATIENCE_S", 0.1)
    with (run / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = contents(run)
        with pytest.raises(VitrailError, match="another process is training in"):
            train(tiny_config(photos, run, epochs=1, fresh=fresh))
        assert contents(run) == before
    # What a killed run may leave of itself is no reason to refuse its folder.
    alone = run.parent / "alone"
    alone.mkdir()
    (alone / LOCK).touch()
    train(tiny_config(photos, alone, epochs=1))
    assert not (alone / LOCK).exists()


def test_only_pictures_that_a_run_drew_are_removed_with_it(run: Path, photos: Path):
    (run / "pictures").mkdir()
    for name in ("epoch_00001.png", "holiday.png"):
        (run / "pictures" / name).touch()
    train(tiny_config(photos, run, epochs=1, report=False, fresh=True))
    assert [file.name for file in (run / "pictures").iterdir()] == ["holiday.png"]


def test_a_disk_that_is_full_at_the_start_does_not_lock_the_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = tiny_config(photos, tmp_path / "run", epochs=1, report=False)
    write = Path.write_text

    def full(self: Path, text: str, **options: str) -> int:
        write(self, text[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(VitrailError, match=r"config\.yaml.*No space left"):
        patch.setattr(Path, "write_text", full)
        train(config)
    assert not contents(tmp_path / "run")
    # What a kill in the midst of that write leaves behind.
    (tmp_path / "run" / "config.yaml.123.vitrail-partial").write_text("#")
    assert train(config) is not None
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(VitrailError, match=r"metrics\.json.*No space left"):
        write_metrics(tmp_path / "run", {})
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"] == 1
    assert not [name for name in contents(tmp_path / "run") if name.startswith(".")]


def test_nothing_is_removed_before_every_process_has_judged_the_command(run: Path, photos: Path):
    config: Training = tiny_config(photos, run, fresh=True)
    claim("train", config, run, ())

    class Lost(World):
        def gather(self, value: object) -> list:
            raise VitrailError("rank 1 has ended")

    before = contents(run)
    with pytest.raises(VitrailError, match="rank 1 has ended"):
        take("train", config, run, Lost())
    assert contents(run) == before


def test_two_processes_start_a_run_over_as_one_does(photos: Path, tmp_path: Path):
    one, two = (tiny_config(photos, tmp_path / "two", epochs=n, batch_size=6, report=False) for n in (1, 2))
    train(one)
    out = in_two_processes("train", two, tmp_path, "--fresh")
    facts = json.loads((out / "metrics.json").read_text())
    assert (facts["resumed"], facts["epochs"]) == (False, 2)


def test_pictures_that_changed_under_their_names_are_not_mixed_in_but_a_copy_of_them_is_the_same(
    photos: Path, tmp_path: Path
):
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    config = tiny_config(data, tmp_path / "run", epochs=1, report=False)
    train(config)
    shutil.rmtree(data)
    shutil.copytree(photos, data, copy_function=shutil.copyfile)
    train(config)
    for file in (data / "blue").iterdir():
        shutil.copyfile(data / "red" / file.name, file)
    with pytest.raises(VitrailError, match=r"content of the pictures, by sizes of files: was [\d,]+ bytes in 36 files"):
        train(config)


def test_pictures_without_files_have_a_fingerprint_too():
    splits = open_data("digits", val_fraction=0.25, seed=0, online=False)
    found = pictures_fingerprint(splits, World())
    assert any("0 bytes in 0 files" in value for value in found.values())
    assert found != pictures_fingerprint(Splits(splits.val, splits.train), World())


def test_the_figures_name_the_processor_that_they_were_made_on(run: Path):
    environment = json.loads((run / "metrics.json").read_text())["environment"]
    assert environment["machine"] == machine() and environment["torch"] == torch.__version__
