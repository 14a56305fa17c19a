"""8 bits on a classifier that was trained on digits: kept where it holds, refused without a trace where not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitrail.contracts import VitrailError
from vitrail.data import DigitsSource
from vitrail.graphs import read_quantised
from vitrail.jobs.agreement import Agreement
from vitrail.jobs.embed import EmbedConfig, embed
from vitrail.jobs.predict import predict
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.quantise import QuantiseConfig, quantise
from vitrail.jobs.train import train
from vitrail.jobs.train_config import TrainConfig

HERE: dict[str, Any] = {"precision": "fp32", "workers": 0, "device": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRAIL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run of a classifier of digits."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    train(
        TrainConfig(
            data="digits",
            model="vit_tiny_patch16_224",
            pretrained=False,
            image_size=8,
            patch_size=2,
            model_options=("depth=2", "embed_dim=48", "num_heads=3", "in_channels=1", "init=jax"),
            epochs=30,
            batch_size=64,
            lr=3e-3,
            crop=1.0,
            crop_scale=None,
            hflip=0.0,
            randaugment=None,
            erasing=0.0,
            mixup=0.0,
            cutmix=0.0,
            layer_decay=1.0,
            ema_decay=0.9,
            out=out,
            **HERE,
        )
    )
    return str(out)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    source = DigitsSource()
    for index in range(60):
        picture: Image.Image = source.picture(index)
        picture.save(folder / f"{index:03}-{source.label(index)}.png")
    return folder


def test_digits_in_8_bits_keep_their_accuracy_and_a_bad_limit_leaves_nothing(
    reader: str, pictures: Path, tmp_path: Path
) -> None:
    def config(**changes: Any) -> QuantiseConfig:
        values = {"model": reader, "calibrate": str(pictures), "data": "digits", "out": tmp_path / "int8", **HERE}
        return QuantiseConfig(**{**values, "batch_size": 64, **changes})

    with pytest.raises(VitrailError, match=r"no 8-bit graph was kept.*relative error.*more than 1e-06"):
        quantise(config(max_error=1e-6, data=None, max_loss=100.0))
    assert not list(tmp_path.iterdir())
    found = quantise(config())
    assert found.accuracy is not None and found.accuracy[0] > 0.9 and found.accuracy[1] > found.accuracy[0] - 0.01
    assert found.same_answer >= 0.95 and 1e-5 < found.errors["logits"] < 0.15
    report = json.loads((tmp_path / "int8" / "config.json").read_text())["report"]
    assert report["accuracy"] == list(found.accuracy) and report["calibrated_on"] == 40 and report["held_out"] == 20

    folder = str(tmp_path / "int8")
    rows = predict(
        PredictConfig(source=str(pictures), model=folder, backend="openvino", out=tmp_path / "p.csv", **HERE)
    )
    right = [row["label"] == Path(row["name"]).stem.split("-")[1] for row in rows]
    assert sum(right) >= 0.9 * len(right)
    asked = EmbedConfig(source=str(pictures), model=folder, backend="openvino", out=tmp_path / "e.csv", **HERE)
    with pytest.raises(VitrailError, match="gives no class_token but logits: vitrail quantise --outputs class_token"):
        embed(asked)
    quantise(config(outputs=("class_token", "patch_mean"), data=None, out=tmp_path / "encoder"))
    vectors = embed(replace(asked, model=str(tmp_path / "encoder")))
    assert len(vectors[0]["embedding"]) == 48
    for changes, message in (
        ({"backend": "torch"}, "8-bit graph: predict and embed take it with --backend openvino"),
        ({"backend": "onnxruntime"}, "use --backend openvino"),
        ({"backend": "openvino", "image_size": 16}, "sizes cannot be changed"),
    ):
        with pytest.raises(VitrailError, match=message):
            embed(EmbedConfig(source=str(pictures), model=folder, out=tmp_path / "x.csv", **HERE, **changes))
    with pytest.raises(VitrailError, match="exists and is not empty"):
        quantise(config())
    with pytest.raises(VitrailError, match="8-bit graph"):
        quantise(config(model=folder, out=tmp_path / "again"))
    weights = tmp_path / "int8" / "graph.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(VitrailError, match="damaged, or exchanged"):
        read_quantised(folder)


def test_too_few_pictures_are_refused(reader: str, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    for file in sorted(pictures.iterdir())[:7]:
        (tmp_path / "few" / file.name).symlink_to(file)
    with pytest.raises(VitrailError, match="7 pictures are too few to calibrate on: give 8 or more"):
        quantise(QuantiseConfig(model=reader, calibrate=str(tmp_path / "few"), out=tmp_path / "out", **HERE))
    assert not (tmp_path / "out").exists()


def test_broken_pictures_are_left_out_of_the_calibration_and_numbers_without_sense_refused(
    reader: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, file in enumerate(sorted(pictures.iterdir())):
        (folder / file.name).write_bytes(b"no picture" if number % 3 == 0 else file.read_bytes())
    values = {"model": reader, "calibrate": str(folder), "max_loss": 100.0, "max_error": 10.0, **HERE}
    with pytest.raises(VitrailError, match=r"\.png: "):
        quantise(QuantiseConfig(out=tmp_path / "strict", **values))
    found = quantise(QuantiseConfig(out=tmp_path / "int8", on_error="skip", **values))
    report = json.loads((tmp_path / "int8" / "config.json").read_text())["report"]
    assert capsys.readouterr().err.count("skipped ") == 20
    assert report["calibrated_on"] + found.held_out == 40
    for name in ("pictures", "held_out"):
        with pytest.raises(VitrailError, match=f"{name} must be at least 1, not 0"):
            QuantiseConfig(out=tmp_path / "none", **{**values, name: 0})


def test_labels_decide_before_answers_and_nan_is_never_kept() -> None:
    labelled = Agreement("all", 100, 0.9, True, {"logits": 0.1}, (0.95, 0.945))
    assert labelled.loss == pytest.approx(0.5) and labelled.refusal(1.0, 0.15) is None
    unlabelled = Agreement("all", 100, 0.9, True, {"logits": 0.1}, None)
    assert "10.00 points lost" in str(unlabelled.refusal(1.0, 0.15))
    encoder = Agreement("all", 100, 0.5, False, {"class_token": 0.05, "patch_mean": 0.2}, None)
    assert encoder.loss is None and "patch_mean is 0.200" in str(encoder.refusal(1.0, 0.15))
    assert Agreement("all", 100, 1.0, False, {"patch_mean": float("nan")}, None).refusal(1.0, 0.15) is not None
