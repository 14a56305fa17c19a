"""The one artefact: what it keeps, that it is whole or absent, and what it refuses."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.weights import Artefact, create_model, is_artefact, load_artefact
from vitrail.weights import artefact as artefact_module

from .builders import artefact, model

CLASSES = ("a", "b", "c", "d", "e")


def change(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_everything_comes_back_bit_equal(tmp_path: Path) -> None:
    made = model(registers=2, layer_scale=0.1)
    preprocess = Preprocess(size=(32, 32), crop=0.9, interpolation="bilinear", mean=(0.1, 0.2, 0.3))
    Artefact(made, CLASSES, preprocess, {"recipe": "r", "score": 0.9}).save_pretrained(tmp_path / "m")
    back = Artefact.from_pretrained(tmp_path / "m")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(back(images), made(images))
    assert back.classes == CLASSES and back.preprocess == preprocess
    assert back.training_info == {"recipe": "r", "score": 0.9}
    assert back.model.config == made.config
    assert not back.training


def test_the_folder_holds_no_pickle_and_says_what_it_is(tmp_path: Path) -> None:
    folder = artefact(tmp_path / "m")
    assert {file.name for file in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    config = json.loads((folder / "config.json").read_text())
    assert config["family"] == "VisionTransformer" and config["architecture"]["embed_dim"] == 64
    assert config["classes"] == list(CLASSES) and config["preprocess"]["size"] == [32, 32]
    assert is_artefact(folder) and not is_artefact(tmp_path)
    assert "library_name: vitrail" in (folder / "README.md").read_text()


def test_saving_over_another_one_leaves_no_scratch_and_keeps_other_files(tmp_path: Path) -> None:
    folder = artefact(tmp_path / "m")
    (folder / "README.md").write_text("my own notes")
    (folder / "plot.png").write_bytes(b"x")
    artefact(folder, ("v", "w", "x", "y", "z"))
    assert load_artefact(folder).classes == ("v", "w", "x", "y", "z")
    assert (folder / "README.md").read_text() == "my own notes" and (folder / "plot.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("dies_at", [0, 1])
def test_a_save_cut_off_between_its_files_leaves_a_pair_that_belongs_together(
    dies_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = artefact(tmp_path / "m")
    moves = 0
    replace = Path.replace

    def dying(self: Path, target: Path) -> Path:
        nonlocal moves
        if moves == dies_at:
            raise KeyboardInterrupt
        moves += 1
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        artefact(folder, ("x", "y"), num_classes=2)
    monkeypatch.undo()
    back = load_artefact(folder)
    assert back.classes == (CLASSES if dies_at == 0 else ("x", "y"))
    assert back.model.num_classes == len(back.classes)


def test_names_of_classes_may_be_edited_by_hand(tmp_path: Path) -> None:
    folder = artefact(tmp_path / "m")
    change(folder, classes=["1", "2", "3", "4", "5"])
    assert load_artefact(folder).classes == ("1", "2", "3", "4", "5")


def test_the_weights_alone_still_know_what_they_are(tmp_path: Path) -> None:
    folder = artefact(tmp_path / "m")
    (folder / "config.json").unlink()
    assert load_artefact(folder).classes == CLASSES


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"classes": ["a"] * 6}, "6 class names for a head of 5"),
        ({"classes": ["a"]}, "1 class names for a head of 5"),
        ({"classes": "abcde"}, "classes must be a list"),
        ({"family": "Perceiver"}, "'Perceiver' is unknown"),
        ({"architecture": {"depth": 2, "window": 7}}, "unknown architecture fields window"),
        ({"preprocess": {"size": [32, 32]}}, "lacks crop"),
        ({"preprocess": {**Preprocess().to_dict(), "mean": [0.5], "std": [0.5]}}, "takes 3 bands.* gives 1"),
    ],
)
def test_parts_that_disagree_are_refused(values: dict, reason: str, tmp_path: Path) -> None:
    folder = artefact(tmp_path / "m")
    change(folder, **values)
    with pytest.raises(VitrailError, match=reason):
        load_artefact(folder)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = artefact(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    change(folder, architecture={**config["architecture"], "depth": 3})
    with pytest.raises(VitrailError, match=r"do not belong together: missing blocks\.2\."):
        load_artefact(folder)
    change(folder, architecture={**config["architecture"], "depth": 1})
    with pytest.raises(VitrailError, match=r"unknown blocks\.1\."):
        load_artefact(folder)
    change(folder, architecture={**config["architecture"], "img_size": 64})
    with pytest.raises(VitrailError, match=r"pos_embed is \(1, 17, 64\), not \(1, 65, 64\)"):
        load_artefact(folder)


def test_a_foreign_folder_is_no_artefact(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert not is_artefact(tmp_path)
    with pytest.raises(VitrailError, match="no artefact of Vitrail"):
        load_artefact(tmp_path)


def test_disagreement_is_refused_before_anything_is_written() -> None:
    with pytest.raises(VitrailError, match="2 class names for a head of 5"):
        Artefact(model(), ("a", "b"), Preprocess())
    with pytest.raises(VitrailError, match="takes 3 bands"):
        Artefact(model(), CLASSES, Preprocess(mean=(0.5,), std=(0.5,)))


def test_weights_that_are_not_finite_are_not_saved_and_the_old_ones_stay(tmp_path: Path) -> None:
    folder = artefact(tmp_path / "m")
    before = load_file(folder / "model.safetensors")
    broken = load_artefact(folder)
    with torch.no_grad():
        broken.model.norm.bias[0] = float("nan")
    with pytest.raises(VitrailError, match=r"not saved: .*norm\.bias"):
        broken.save_pretrained(folder)
    assert load_file(folder / "model.safetensors").keys() == before.keys()
    assert load_artefact(folder).classes == CLASSES
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_full_disk_leaves_the_old_artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = artefact(tmp_path / "m")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artefact_module, "save_file", full)
    with pytest.raises(VitrailError, match=r"m: the artefact cannot be written: .*No space left"):
        artefact(folder, ("x", "y"), num_classes=2)
    assert load_artefact(folder).classes == CLASSES
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_what_a_killed_save_left_goes_with_the_next(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from vitrail.durable import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "model.safetensors").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".m.")
    artefact(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_who_may_read_a_saved_model_is_for_the_umask_to_say(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        # New, and into a folder that is there.
        for _ in range(2):
            folder = artefact(tmp_path / "m")
            assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o640}
            assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    finally:
        os.umask(before)


def test_a_place_that_cannot_be_a_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(VitrailError, match=r"file.*cannot be written"):
        artefact(tmp_path / "file" / "m")
    with pytest.raises(VitrailError, match=r"file.*cannot be written"):
        artefact(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"


def test_a_name_that_is_no_folder_stays_off_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def network(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr("socket.socket.connect", network)
    monkeypatch.setattr("socket.getaddrinfo", network)
    for name in ("nobody/nothing", str(tmp_path / "nowhere"), "a b c"):
        with pytest.raises(VitrailError, match=r"no such folder.*cache of the hub"):
            load_artefact(name)


def test_a_repository_in_the_hubs_cache_opens_offline(tmp_path: Path) -> None:
    root = tmp_path / "cache" / "models--me--mine"
    artefact(root / "snapshots" / "abc")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    assert Artefact.from_pretrained("me/mine", cache_dir=tmp_path / "cache").classes == CLASSES


def test_push_to_hub_uploads_the_saved_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    seen: dict[str, list[str]] = {}

    class Made:
        repo_id = "me/mine"

    def upload(self: HfApi, *, folder_path: Path, repo_id: str, **_: object) -> str:
        seen[repo_id] = sorted(path.name for path in Path(folder_path).iterdir())
        return "url"

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: Made())
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    made = Artefact(model(), CLASSES, Preprocess(size=(32, 32)))
    assert made.push_to_hub("me/mine") == "url"
    assert seen == {"me/mine": ["README.md", "config.json", "model.safetensors"]}


def test_an_artefact_is_a_source_of_pretrained_weights(tmp_path: Path) -> None:
    folder = artefact(tmp_path / "m")
    same = create_model(str(folder), pretrained=True)
    other = create_model(str(folder), pretrained=True, num_classes=3)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(same(images), model()(images))
    assert other(images).shape == (1, 3)
    assert torch.equal(other.features(images).values, same.features(images).values)
