"""Broken and hostile checkpoints: each refused with the reason and the file's name."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vitrail.weights import CheckpointError, load_checkpoint
from vitrail.weights.files import read_raw

from .builders import artefact, google_npz, model, state


class Exploit:
    """Runs code when unpickled."""

    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('pwned').touch()",))


def header(fields: str | dict, data: bytes = b"\0" * 16) -> bytes:
    text = (fields if isinstance(fields, str) else json.dumps(fields)).encode()
    return struct.pack("<Q", len(text)) + text + data


ENTRY = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
BROKEN_SAFETENSORS = {
    "empty": (b"", "empty"),
    "three_bytes": (b"abc", "truncated, or no safetensors"),
    "html": (b"<!DOCTYPE html><html>not found</html>", "no safetensors"),
    "header_longer_than_file": (struct.pack("<Q", 10**6) + b"{}", "truncated, or no safetensors"),
    "header_no_json": (header("{'a': 1"), "header is damaged"),
    "header_no_object": (header("[1, 2]"), "header is damaged"),
    "entry_without_offsets": (header({"a": {"dtype": "F32", "shape": [2]}}), "header is damaged"),
    "entry_no_object": (header({"a": 3}), "header is damaged"),
    "doubled_key": (header(f'{{"a":{ENTRY},"a":{ENTRY}}}'), "'a' stands in it twice"),
    "offset_past_the_end": (header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}), "'a' lies outside"),
    "offsets_reversed": (header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}), "'a' lies outside"),
    "negative_offset": (header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}), "'a' lies outside"),
    "shape_disagrees": (header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}}), "damaged"),
    "unknown_dtype": (header({"a": {"dtype": "F31", "shape": [4], "data_offsets": [0, 16]}}), "damaged"),
    "overlap": (header(f'{{"a":{ENTRY},"b":{ENTRY}}}', b"\0" * 8), "damaged"),
    "no_tensors": (header({}, b""), "not a single tensor"),
}


@pytest.mark.parametrize("fault", BROKEN_SAFETENSORS)
def test_broken_safetensors(fault: str, tmp_path: Path) -> None:
    content, reason = BROKEN_SAFETENSORS[fault]
    file = tmp_path / "bad.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"bad\.safetensors.*{reason}"):
        read_raw(file)
    assert file.read_bytes() == content


@pytest.mark.parametrize("old_protocol", [False, True])
def test_a_pickle_named_safetensors(old_protocol: bool, tmp_path: Path) -> None:
    file = tmp_path / "bad.safetensors"
    if old_protocol:
        file.write_bytes(pickle.dumps({"a": 1}))
    else:
        torch.save(state(model()), file)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors.*pickle named \.safetensors"):
        read_raw(file)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_that_needs_code_is_refused_and_its_code_not_run(
    suffix: str, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"evil{suffix}"
    if zipped:
        torch.save({"model": Exploit()}, file)
    else:
        file.write_bytes(pickle.dumps({"model": Exploit()}))
    with pytest.raises(CheckpointError, match=rf"evil\{suffix}: refused: .*arbitrary code"):
        read_raw(file)
    assert not (tmp_path / "pwned").exists()


def test_an_array_of_objects_in_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", a=np.array([Exploit()], dtype=object))
    with pytest.raises(CheckpointError, match=r"evil\.npz.*arbitrary code"):
        read_raw(tmp_path / "evil.npz")


@pytest.mark.parametrize("part", range(1, 10))
def test_files_cut_off_at_every_tenth(part: int, tmp_path: Path) -> None:
    weights = state(model())
    whole = {".safetensors": tmp_path / "w.safetensors", ".pth": tmp_path / "w.pth", ".npz": tmp_path / "w.npz"}
    save_file(weights, whole[".safetensors"])
    torch.save(weights, whole[".pth"])
    np.savez(whole[".npz"], **google_npz(weights, 1, "flax"))
    for suffix, file in whole.items():
        content = file.read_bytes()
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(content[: len(content) * part // 10])
        with pytest.raises(CheckpointError, match=rf"cut\{suffix}"):
            load_checkpoint(cut)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_that_are_not_finite(suffix: str, bad: float, tmp_path: Path) -> None:
    weights = state(model())
    weights["blocks.1.mlp.fc1.weight"][3, 5] = bad
    file = tmp_path / f"nan{suffix}"
    save_file(weights, file) if suffix == ".safetensors" else torch.save(weights, file)
    with pytest.raises(CheckpointError, match=rf"nan\{suffix}: 1 of \d+ numbers of 'blocks\.1\.mlp\.fc1\.weight'"):
        load_checkpoint(file)


def test_a_header_whose_length_begins_like_a_pickle_is_sound(tmp_path: Path) -> None:
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).ljust(128)
    file = tmp_path / "a.safetensors"
    file.write_bytes(struct.pack("<Q", 128) + text.encode() + struct.pack("<2f", 1.0, 2.0))
    assert file.read_bytes()[:1] == b"\x80"
    assert read_raw(file).tensors["a"].tolist() == [1.0, 2.0]


def test_what_is_read_does_not_lie_in_the_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "a.safetensors")
    read_raw(tmp_path / "a.safetensors").tensors["a"].fill_(7.0)
    assert load_file(tmp_path / "a.safetensors")["a"].tolist() == [0.0] * 4


# ---------------------------------------------------------------------- folders and shards


def shards(folder: Path, **changes: str) -> Path:
    weights = state(model())
    names = sorted(weights)
    halves = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    folder.mkdir()
    for file, part in halves.items():
        save_file({name: weights[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in halves.items() for name in part} | changes
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_shards_are_joined(tmp_path: Path) -> None:
    loaded = load_checkpoint(shards(tmp_path / "s"))
    for name, tensor in state(model()).items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = shards(tmp_path / "s")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors: this shard is missing"):
        load_checkpoint(folder)


def test_an_index_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    save_file({"secret": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"\.\./other\.safetensors.*another folder"):
        load_checkpoint(shards(tmp_path / "s", secret="../other.safetensors"))


def test_a_tensor_that_the_index_promises_and_no_shard_has(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="promises 'ghost'"):
        load_checkpoint(shards(tmp_path / "s", ghost="model-00001-of-00002.safetensors"))


def test_a_folder_without_weights_and_a_path_without_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"without weights.*model\.safetensors"):
        read_raw(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_raw(tmp_path / "nowhere.pth")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"notes\.txt: unknown kind of file"):
        read_raw(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [([1, 2], "holds a list"), ({"epoch": 3, "lr": 0.1}, r"epoch \(int\), lr \(float\)"), ({}, "it holds nothing")],
)
def test_pickles_without_a_table_of_tensors(content: object, reason: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=rf"x\.pth.*{reason}"):
        read_raw(tmp_path / "x.pth")


def test_config_with_a_doubled_key_is_refused(tmp_path: Path) -> None:
    folder = artefact(tmp_path / "a")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"vitrail"', '"id": "x", "vitrail"', 1))
    with pytest.raises(CheckpointError, match=r"config\.json.*'id' stands in it twice"):
        load_checkpoint(folder)
