import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from tests.jobs.tiny import tiny_config
from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.jobs.probe import ProbeConfig, probe
from vitrail.jobs.train import starting_model, train
from vitrail.weights import Artefact, create_model


def test_a_run_learns_and_leaves_everything_that_repeats_and_explains_it(trained: Path):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["accuracy"] == 1.0
    assert metrics["pictures"] == {"train": 27, "val": 9}
    assert yaml.safe_load((trained / "config.yaml").read_text())["epochs"] == 6
    rows = list(csv.DictReader((trained / "metrics.csv").open()))
    assert float(rows[-1]["val_accuracy"]) == 1.0
    assert float(rows[0]["loss"]) > float(rows[-1]["loss"])
    report = (trained / "report.html").read_text()
    assert "100.00 %" in report and "data:image/" in report
    assert Artefact.from_pretrained(trained / "model").classes == ("blue", "green", "red")


def test_the_same_command_on_a_finished_run_changes_nothing(trained: Path, photos: Path):
    before = load_file(trained / "model" / "model.safetensors")
    result = train(tiny_config(photos, trained))
    after = load_file(trained / "model" / "model.safetensors")
    assert result is not None and result.scores.accuracy == 1.0
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_config_in_the_same_folder_is_refused_with_what_differs(trained: Path, photos: Path):
    before = (trained / "config.yaml").read_text()
    with pytest.raises(VitrailError, match=r"lr was 0\.003, is 0\.1") as error:
        train(tiny_config(photos, trained, lr=0.1))
    assert "--fresh" in str(error.value)
    assert (trained / "config.yaml").read_text() == before


def test_a_run_that_never_began_does_not_stand_in_the_way(photos: Path, tmp_path: Path):
    out = tmp_path / "run"
    with pytest.raises(VitrailError, match="num_heads"):
        train(tiny_config(photos, out, model_options=("depth=1", "embed_dim=20", "num_heads=3")))
    assert train(tiny_config(photos, out, epochs=1, report=False)) is not None


def test_options_that_change_no_result_may_differ(trained: Path, photos: Path):
    assert train(tiny_config(photos, trained, eval_every=3, report=False)) is not None


def test_fresh_starts_over_but_keeps_files_that_are_not_the_runs(photos: Path, tmp_path: Path):
    out = tmp_path / "run"
    train(tiny_config(photos, out, epochs=1, report=False))
    (out / "notes.txt").write_text("mine")
    train(tiny_config(photos, out, epochs=2, report=False, fresh=True))
    assert json.loads((out / "metrics.json").read_text())["epochs"] == 2
    assert (out / "notes.txt").read_text() == "mine"


def test_a_folder_that_is_no_run_is_left_alone(photos: Path, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(VitrailError, match="not a run's"):
        train(tiny_config(photos, tmp_path, fresh=True))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_project_that_has_a_config_of_its_own_is_left_alone(photos: Path, tmp_path: Path):
    project = tmp_path / "project"
    shutil.copytree(photos, project / "pictures")
    (project / "model").mkdir()
    (project / "model" / "mine.txt").write_text("mine")
    (project / "config.yaml").write_text("database: x\n")
    before = contents(project)
    for fresh in (False, True):
        with pytest.raises(VitrailError, match=r"project: holds a config\.yaml that is not a run's"):
            train(tiny_config(project / "pictures", project, fresh=fresh))
    assert contents(project) == before


def test_starting_over_never_removes_the_data_or_what_it_did_not_write(photos: Path, tmp_path: Path):
    out = tmp_path / "run"
    train(tiny_config(photos, out, epochs=1, report=False))
    for folder in ("pictures", "model2"):
        shutil.copytree(photos, out / folder)
    before = contents(out)
    with pytest.raises(VitrailError, match=r"lies in .*run, the folder of a run that is to be started over"):
        train(tiny_config(out / "pictures", out, fresh=True))
    with pytest.raises(VitrailError, match="no such file"):
        train(tiny_config(tmp_path / "mis" / "taken", out, fresh=True))
    assert contents(out) == before
    train(tiny_config(photos, out, epochs=1, report=False, fresh=True))
    assert contents(out / "pictures") == contents(photos) == contents(out / "model2")


def test_a_path_written_in_another_way_is_the_same_data(photos: Path, trained: Path):
    assert train(tiny_config(f"{photos}/", trained, report=False)) is not None


def test_a_run_ends_with_the_same_weights_with_and_without_workers(photos: Path, tmp_path: Path):
    weights = []
    for workers in (0, 2):
        out = tmp_path / str(workers)
        train(tiny_config(photos, out, epochs=2, workers=workers, report=False, hflip=0.5, mixup=0.8, cutmix=1.0))
        weights.append(load_file(out / "model" / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_trained_model_can_be_trained_further_on_other_classes(trained: Path, photos: Path, tmp_path: Path):
    two = tmp_path / "two"
    two.mkdir()
    for name in ("blue", "red"):
        (two / name).symlink_to(photos / name)
    start = tiny_config(two, tmp_path / "run", model=str(trained), epochs=1, model_options=(), report=False)
    result = train(replace(start, pretrained=True, patch_size=None, lr=1e-6, min_lr=0.0))
    assert result is not None and result.artefact.classes == ("blue", "red")
    before = load_file(trained / "model" / "model.safetensors")["blocks.0.attn.qkv.weight"]
    after = result.artefact.model.state_dict()["blocks.0.attn.qkv.weight"]
    assert (before - after).abs().max() < 1e-4


@pytest.mark.parametrize("tune", ["last", "head", "lora"])
def test_partial_tuning_leaves_the_rest_as_it_was(trained: Path, photos: Path, tmp_path: Path, tune: str):
    start = tiny_config(photos, tmp_path / tune, model=str(trained), epochs=1, model_options=(), report=False)
    result = train(replace(start, pretrained=True, patch_size=None, tune=tune, tune_blocks=1, weight_decay=0.0))
    assert result is not None
    before = load_file(trained / "model" / "model.safetensors")
    after = result.artefact.model.state_dict()
    changed = {".".join(name.split(".")[:2]) for name in before if not torch.equal(before[name], after[name])}
    allowed = {
        "last": {"blocks.1", "norm.weight", "norm.bias", "head.weight", "head.bias"},
        "head": {"head.weight", "head.bias"},
        "lora": {"blocks.0", "blocks.1", "head.weight", "head.bias"},
    }[tune]
    assert "head.weight" in changed and changed <= allowed
    assert set(after) == set(before)


def test_an_unknown_option_of_the_model_is_named(photos: Path, tmp_path: Path):
    with pytest.raises(VitrailError, match="hieght"):
        train(tiny_config(photos, tmp_path / "run", model_options=("hieght=3",)))
    with pytest.raises(VitrailError, match="not of the form name=value"):
        train(tiny_config(photos, tmp_path / "other", model_options=("depth",)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"lr": float("nan")}, "lr"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": 100}, "batch"),
        ({"batch_size": 9, "accumulate": 2}, "multiple of"),
        ({"image_size": 15}, "15"),
    ],
)
def test_numbers_that_cannot_work_are_refused_by_name(photos: Path, tmp_path: Path, changes: dict, message: str):
    with pytest.raises(VitrailError, match=message):
        train(tiny_config(photos, tmp_path / "run", **changes))


def test_a_broken_picture_stops_the_run_by_name_or_is_counted(photos: Path, tmp_path: Path):
    data = tmp_path / "data"
    for folder in photos.iterdir():
        (data / folder.name).mkdir(parents=True)
        for file in folder.iterdir():
            (data / folder.name / file.name).symlink_to(file)
    (data / "red" / "broken.png").write_bytes((photos / "red" / "00.png").read_bytes()[:200])
    with pytest.raises(VitrailError, match=r"broken\.png"):
        train(tiny_config(data, tmp_path / "strict", epochs=1, report=False))
    train(tiny_config(data, tmp_path / "lenient", epochs=1, report=False, on_error="skip"))
    skipped = json.loads((tmp_path / "lenient" / "metrics.json").read_text())["skipped"]
    assert [Path(name).name for name, _ in skipped] == ["broken.png"]


def test_the_head_can_start_as_the_linear_probe_of_the_frozen_features(trained: Path, photos: Path, tmp_path: Path):
    """With next to no learning after it, a fresh head guesses and the probe's head already knows."""
    still = tiny_config(
        photos, tmp_path / "probe", model=str(trained), epochs=1, model_options=("pool=class_mean",), report=False
    )
    still = replace(still, pretrained=True, patch_size=None, lr=1e-9, min_lr=0.0, warmup_lr=0.0, head="probe")
    from_probe = train(still)
    assert from_probe is not None and from_probe.scores.accuracy == 1.0
    probe(
        ProbeConfig(data=str(photos), model=str(trained), crop=1.0, out=tmp_path / "kept", k=3, device="cpu", workers=0)
    )
    from_folder = train(replace(still, head=str(tmp_path / "kept"), out=tmp_path / "folder"))
    assert from_folder is not None and from_folder.scores.accuracy == 1.0
    with pytest.raises(VitrailError, match="neither fresh nor probe"):
        train(replace(still, head="prob", out=tmp_path / "typo"))
    with pytest.raises(VitrailError, match=r"\(3, 64\) weights, this model's classifier \(3, 32\)"):
        train(replace(still, head=str(tmp_path / "kept"), model_options=(), out=tmp_path / "other"))


def test_soft_labels_teach_the_stated_probabilities_and_are_scored_on_the_labels(photos: Path, tmp_path: Path):
    rows = [
        f"{file},{name},{p_red}"
        for name, p_red in (("blue", "0.4,0.6"), ("red", "1,0"))
        for file in sorted((photos / name).iterdir())
    ]
    data = tmp_path / "labels.csv"
    data.write_text("image,label,p:red,p:blue\n" + "\n".join(rows) + "\n")
    config = replace(tiny_config(photos, tmp_path / "run"), data=str(data), smoothing=0.0, epochs=15)
    result = train(replace(config, soft_labels=True))
    assert result is not None and result.scores.accuracy == 1.0
    blue = [result.artefact.preprocess(Image.open(file)) for file in sorted((photos / "blue").iterdir())]
    red = result.artefact.model(torch.stack(blue)).softmax(dim=1)[:, result.artefact.classes.index("red")]
    assert 0.25 < red.mean() < 0.5
    assert "60% blue + 40% red" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(VitrailError, match="no class probabilities"):
        train(replace(config, data=str(photos), soft_labels=True, out=tmp_path / "none"))


@pytest.mark.parametrize("tune", ["head", "lora"])
def test_a_pool_that_no_file_has_learns_with_the_head_and_a_published_one_stays(
    tune: str, trained: Path, photos: Path, tmp_path: Path
):
    def learning(model: Path) -> set[str]:
        config = tiny_config(photos, tmp_path, model=str(model), model_options=("pool=attention",), tune=tune)
        backbone, _ = starting_model(replace(config, pretrained=True), ("one", "two"))
        return {name.split(".")[0] for name, parameter in backbone.named_parameters() if parameter.requires_grad}

    updates = {"blocks"} if tune == "lora" else set()
    assert learning(trained) == {"attn_pool", "head"} | updates
    published = create_model(
        "vit_tiny_patch16_224", depth=1, embed_dim=32, num_heads=2, pool="attention", num_classes=3
    )
    Artefact(published, ("a", "b", "c"), Preprocess()).save_pretrained(tmp_path / "published")
    assert learning(tmp_path / "published") == {"head"} | updates
