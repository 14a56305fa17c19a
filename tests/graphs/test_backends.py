"""predict and embed give the same tables whichever library computes; graphs are made once."""

import json
from pathlib import Path
from typing import Any

import pytest

from vitrail.contracts import VitrailError
from vitrail.jobs.embed import EmbedConfig, embed
from vitrail.jobs.export import ExportConfig, export
from vitrail.jobs.predict import predict
from vitrail.jobs.predict_config import PredictConfig

HERE: dict[str, Any] = {"precision": "fp32", "workers": 0, "batch_size": 7}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("VITRAIL_CACHE", str(folder))
        yield folder / "graphs"


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_tables_are_the_same_with_each_backend(backend: Any, trained: Path, photos: Path, tmp_path: Path) -> None:
    both: dict[str, list[dict[str, Any]]] = {}
    for name in ("torch", backend):
        config = PredictConfig(
            source=str(photos), model=str(trained), backend=name, out=tmp_path / f"{name}.csv", **HERE
        )
        both[name] = predict(config)
    for one, other in zip(both["torch"], both[backend], strict=True):
        assert [one[key] for key in ("name", "label", "top_labels")] == [
            other[key] for key in ("name", "label", "top_labels")
        ]
        assert one["top_confidences"] == pytest.approx(other["top_confidences"], abs=2e-6)
    for pool in ("class", "class_mean"):
        rows = [
            embed(
                EmbedConfig(
                    source=str(photos), model=str(trained), backend=name, pool=pool, out=tmp_path / "e.jsonl", **HERE
                )
            )
            for name in ("torch", backend)
        ]
        for one, other in zip(*rows, strict=True):
            assert one["name"] == other["name"]
            assert one["embedding"] == pytest.approx(other["embedding"], abs=1e-5)


def test_a_graph_is_made_once_and_a_damaged_one_again(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    cache = tmp_path / "cache" / "graphs"

    def run() -> list[dict[str, Any]]:
        source = str(sorted(photos.rglob("*.png"))[0])
        return predict(
            PredictConfig(source=source, model=str(trained), backend="onnxruntime", out=tmp_path / "t.csv", **HERE)
        )

    first = run()
    (file,) = cache.glob("*.onnx")
    made, content = file.stat().st_mtime_ns, file.read_bytes()
    assert run() == first
    assert file.stat().st_mtime_ns == made
    file.write_bytes(content[: len(content) // 2])
    assert run() == first
    assert file.stat().st_size > 0.9 * len(content)
    assert sorted(path.suffix for path in cache.iterdir()) == [".onnx", ".sha256"]
    # A kill between the graph and its seal leaves a graph that nobody trusts.
    file.with_suffix(".sha256").unlink()
    file.write_bytes(b"")
    assert run() == first


def test_no_place_for_graphs_is_said_in_a_line(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise PermissionError("vitrail-0 is not the folder of user 0 alone: remove it, or set VITRAIL_CACHE")

    monkeypatch.setattr("vitrail.graphs.cache.user_cache", nowhere)
    config = PredictConfig(
        source=str(photos), model=str(trained), backend="onnxruntime", out=tmp_path / "t.csv", **HERE
    )
    with pytest.raises(VitrailError, match=r"no place for graphs: vitrail-0 .* set VITRAIL_CACHE"):
        predict(config)


def test_export_keeps_only_what_was_checked(trained: Path, tmp_path: Path) -> None:
    import onnx

    file = tmp_path / "graph.onnx"
    found = export(ExportConfig(model=str(trained), out=file))
    assert {(one.output, one.inputs) for one in found} == {("logits", "noise"), ("logits", "photographs")}
    stored = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    facts = json.loads(stored["vitrail"])
    assert facts["classes"] == ["blue", "green", "red"] and facts["preprocess"]["size"] == [16, 16]
    export(ExportConfig(model=str(trained), to="openvino", outputs=("class_token", "logits"), out=tmp_path / "g.xml"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.bin", "g.xml", "graph.onnx"]
    with pytest.raises(VitrailError, match="does not give embedding: choose from logits, class_token, patch_mean"):
        export(ExportConfig(model=str(trained), outputs=("embedding",), out=tmp_path / "h.onnx"))


def test_options_that_do_not_fit_are_refused(trained: Path, photos: Path, tmp_path: Path) -> None:
    def config(**changes: Any) -> EmbedConfig:
        values = {"source": str(photos), "model": str(trained), "out": tmp_path / "e.csv", **HERE, **changes}
        return EmbedConfig(**values)

    with pytest.raises(VitrailError, match="graphs run on the CPU"):
        embed(config(backend="openvino", device="cuda"))
    with pytest.raises(VitrailError, match="onnxruntime computes in fp32"):
        embed(config(backend="onnxruntime", precision="bf16"))
    with pytest.raises(VitrailError, match="graphs merge no patches"):
        config(backend="openvino", merge=4)
    assert not list(tmp_path.iterdir())


def test_unfinished_parts_of_another_backend_are_not_mixed_in(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(backend: Any) -> EmbedConfig:
        return EmbedConfig(source=str(photos), model=str(trained), backend=backend, out=tmp_path / "e.csv", **HERE)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    # Behind the first part: a job without any does not stand in another's way.
    with monkeypatch.context() as patch:
        patch.setattr("vitrail.jobs.bulk.write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            embed(config("openvino"))
    with pytest.raises(VitrailError, match="unfinished parts of another job"):
        embed(config("torch"))
