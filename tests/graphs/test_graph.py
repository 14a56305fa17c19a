import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.models.tiny import TINY
from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.graphs import Difference, Facts, Traceable, outputs_of, require_equal, traceable
from vitrail.graphs.write import scratch_beside, write_graph
from vitrail.models import build, config_of

FAMILIES = (
    "vit_tiny_patch16_224@32x48",
    "deit_tiny_distilled_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "swin_tiny_patch4_window7_224",
    "beit_base_patch16_224",
    "clip_vit_base_patch32_224",
    "convnext_tiny",
)


def test_graphs_of_many_families_say_what_their_models_say() -> None:
    command = [sys.executable, "-m", "tests.graphs.compare_all", *FAMILIES]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(line.split() for line in done.stdout.splitlines() if line.startswith(FAMILIES))
    assert found.keys() == set(FAMILIES)
    assert all(float(value) < 1e-5 for value in found.values()), found


@pytest.mark.parametrize("name", ["detr_resnet50", "sam_vit_base_patch16", "dit_small_patch2_256"])
def test_kinds_that_make_no_graph_are_named(name: str) -> None:
    with pytest.raises(VitrailError, match=r"does not become a graph.*--backend torch"):
        traceable(build(config_of(name, TINY[name])))


def test_a_register_is_not_given_as_a_class_token() -> None:
    name = "vit_tiny_patch16_224"
    changes = {"class_token": False, "registers": 4, "pool": "mean", "num_classes": 0}
    model = traceable(build(config_of(name, {**TINY[name], **changes})))
    assert outputs_of(model) == ("patch_mean",)
    with pytest.raises(VitrailError, match="does not give class_token: choose from patch_mean"):
        Traceable(model, ("class_token",))


def test_facts_come_back_from_json() -> None:
    facts = Facts("VisionTransformer", ("logits", "patch_mean"), ("Käse", "wine"), Preprocess(size=(32, 48)))
    assert Facts.from_dict(json.loads(facts.to_json()), "here") == facts
    with pytest.raises(VitrailError, match="here: lacks classes"):
        Facts.from_dict({"family": "", "outputs": [], "preprocess": {}}, "here")
    with pytest.raises(VitrailError, match="unknown outputs boxes"):
        Facts.from_dict({**facts.to_dict(), "outputs": ["boxes"]}, "here")


@pytest.mark.parametrize("largest", [2e-3, float("nan")])
def test_a_difference_beyond_the_tolerance_is_refused(largest: float) -> None:
    wrong = Difference("logits", "photographs", largest, 1.0)
    with pytest.raises(VitrailError, match="logits on photographs"):
        require_equal([Difference("logits", "noise", 9e-4, 1.0), wrong], "graph.onnx")
    require_equal([Difference("logits", "noise", 2e-3, 3.0)], "graph.onnx")


def test_a_graph_that_is_not_accepted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrail.graphs import write

    monkeypatch.setitem(write.FORMATS, "onnx", (".onnx", lambda model, facts, file: file.write_bytes(b"graph")))
    facts = Facts("VisionTransformer", ("logits",), (), Preprocess())

    def refuse(file: Path) -> None:
        assert file.read_bytes() == b"graph"
        raise VitrailError("wrong")

    file = tmp_path / "new" / "graph.onnx"
    with pytest.raises(VitrailError, match="wrong"):
        write_graph(torch.nn.Identity(), facts, "onnx", file, refuse)  # type: ignore[arg-type]
    assert not any(file.parent.iterdir())
    file.write_bytes(b"earlier")
    with pytest.raises(VitrailError, match="wrong"):
        write_graph(torch.nn.Identity(), facts, "onnx", file, refuse)  # type: ignore[arg-type]
    assert file.read_bytes() == b"earlier"
    with pytest.raises(VitrailError, match=r"ends in \.onnx"):
        write_graph(torch.nn.Identity(), facts, "onnx", tmp_path / "graph.xml", refuse)  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(VitrailError, match=r"graph\.onnx: cannot be written"),
        scratch_beside(tmp_path / "file/graph.onnx"),
    ):
        pass


@pytest.mark.parametrize(
    ("module", "extra", "verb"),
    [
        ("openvino", "openvino", "openvino"),
        ("onnxruntime", "export", "onnxruntime"),
        ("onnxscript", "export", "openvino"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    module: str, extra: str, verb: str, photos: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrail.jobs.embed import EmbedConfig, embed

    real = importlib.import_module

    def without(name: str, package: str | None = None) -> object:
        if name == module:
            raise ImportError(f"No module named {name!r}")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    config = EmbedConfig(source=str(photos), model=str(trained), backend=verb, out=tmp_path / "a.csv", workers=0)  # type: ignore[arg-type]
    with pytest.raises(VitrailError, match=rf'{module} .*pip install "vitrail\[{extra}\]"'):
        embed(config)
    assert not (tmp_path / "a.csv").exists()
