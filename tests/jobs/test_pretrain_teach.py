"""``vitrail pretrain`` with a teacher of features, with captions and with clips, from the data to the artefact."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.jobs.words import WORDS, tokenizer_json
from vitrail.cli import main
from vitrail.contracts import VitrailError
from vitrail.jobs.predict import predict
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.pretrain import pretrain
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.models import DualEncoder, VideoTransformer, VisionTransformer
from vitrail.weights import Artefact

HERE = {"workers": 0, "device": "cpu", "precision": "fp32", "crop": 1.0, "warmup_fraction": 0.1}
SMALL = ("depth=2", "embed_dim=32", "num_heads=2")
PAIR = (
    *("embed_dim=32", "depth=1", "num_heads=2", "text_dim=32", "text_depth=1", "text_heads=2", "joint_dim=16"),
    *(f"vocab_size={len(WORDS)}", "context_length=8", "end_token=11", "pad_token=11"),
)


def losses(out: Path) -> list[float]:
    return [float(row["loss"]) for row in csv.DictReader((out / "metrics.csv").open())]


def test_features_of_a_trained_model_are_taken_over(trained: Path, photos: Path, tmp_path: Path) -> None:
    config = PretrainConfig(
        data=str(photos),
        method="distill_features",
        method_options=(f"teacher={trained}",),
        model="vit_tiny_patch16_224",
        model_options=("depth=1", "embed_dim=16", "num_heads=2"),
        image_size=16,
        patch_size=4,
        batch_size=9,
        epochs=8,
        lr=5e-3,
        out=tmp_path / "run",
        **HERE,
    )
    result = pretrain(config)
    assert result is not None and isinstance(result.artefact.model, VisionTransformer)
    assert losses(tmp_path / "run")[-1] < 0.8 * losses(tmp_path / "run")[0]
    row = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))[-1]
    assert 0 < float(row["patch_cosine"]) <= 1 and 0 < float(row["summary_cosine"]) <= 1
    kept = Artefact.from_pretrained(tmp_path / "run" / "model")
    assert not any("adapter" in name or "teacher" in name for name in kept.state_dict())


@pytest.fixture(scope="module")
def pairs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blue pictures are called cats, green ones dogs, red ones women."""
    pytest.importorskip("tokenizers")
    words = {"blue": "a photo of a cat", "green": "a drawing of a dog", "red": "woman"}
    rows = [f"{file},{text}" for colour, text in words.items() for file in sorted((photos / colour).iterdir())]
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    path.write_text("image,caption\n" + "\n".join(rows) + "\n")
    (path.parent / "tokenizer.json").write_text(tokenizer_json("clip"), encoding="utf-8")
    return path


def pair_config(pairs: Path, out: Path, **changes: object) -> PretrainConfig:
    values = {
        "data": str(pairs),
        "method": "clip",
        "method_options": (f"tokenizer={pairs.parent / 'tokenizer.json'}",),
        "model": "clip_vit_base_patch32_224",
        "model_options": PAIR,
        "image_size": 16,
        "patch_size": 8,
        "batch_size": 9,
        "epochs": 12,
        "lr": 3e-3,
        "crop_scale": None,
        "out": out,
        **HERE,
    }
    return PretrainConfig(**{**values, **changes})


def test_pairs_train_a_model_that_sorts_pictures_among_words(pairs: Path, photos: Path, tmp_path: Path) -> None:
    result = pretrain(pair_config(pairs, tmp_path / "run", epochs=25, lr=6e-3, eval_every=25))
    assert result is not None and isinstance(result.artefact.model, DualEncoder)
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    assert result.metrics["feature_rank"] > 1.0 and list((tmp_path / "run" / "pictures").glob("*.png"))
    rows = predict(
        PredictConfig(
            source=str(photos),
            model=str(tmp_path / "run"),
            labels=("a photo of a cat", "a drawing of a dog", "woman"),
            template=("{}",),
            out=tmp_path / "answers.csv",
            device="cpu",
            precision="fp32",
            workers=0,
        )
    )
    wanted = {"blue": "a photo of a cat", "green": "a drawing of a dog", "red": "woman"}
    right = [row["label"] == wanted[Path(str(row["name"])).parent.name] for row in rows]
    assert len(right) == 36 and np.mean(right) > 0.9


def test_siglip_trains_with_its_own_loss_and_a_run_can_be_the_next_ones_start(pairs: Path, tmp_path: Path) -> None:
    options = tuple(option for option in PAIR if not option.startswith("joint_dim"))
    config = pair_config(
        pairs,
        tmp_path / "run",
        model="siglip_vit_base_patch16_224",
        model_options=(*options, "joint_dim=32", "clean=none"),
        epochs=2,
    )
    pretrain(config)
    row = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))[-1]
    assert {"bias", "scale", "retrieved", "text_cosine"} <= row.keys()
    again = pair_config(
        pairs,
        tmp_path / "again",
        model=str(tmp_path / "run"),
        model_options=(),
        method_options=(),
        patch_size=None,
        pretrained=True,
        epochs=1,
    )
    assert pretrain(again) is not None
    assert set(Artefact.from_pretrained(tmp_path / "again" / "model").files) == {"tokenizer.json"}


def test_pairs_without_tokenizer_captions_or_towers_are_refused(pairs: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(VitrailError, match="brings no tokenizer along"):
        pretrain(pair_config(pairs, tmp_path / "a", method_options=()))
    with pytest.raises(VitrailError, match="no tokenizer there"):
        pretrain(pair_config(pairs, tmp_path / "b", method_options=(f"tokenizer={tmp_path}",)))
    with pytest.raises(VitrailError, match="clip trains a pair of towers"):
        pretrain(pair_config(pairs, tmp_path / "c", model="vit_tiny_patch16_224", model_options=SMALL))
    plain = tmp_path / "plain.csv"
    plain.write_text("image,label\na.png,b\n")
    with pytest.raises(VitrailError, match="lacks the column caption"):
        pretrain(pair_config(plain, tmp_path / "d", method_options=pair_config(pairs, tmp_path).method_options))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of a light square that moves."""
    root = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(0)
    for number in range(12):
        top, left = random.integers(0, 12, 2)
        frames = np.full((9, 24, 24, 3), 30, np.uint8)
        for t in range(9):
            frames[t, top + t // 2 : top + t // 2 + 8, left + t // 2 : left + t // 2 + 8] = 220
        if number % 3 == 0:
            np.save(root / f"{number}.npy", frames)
        elif number % 3 == 1:
            (root / f"{number}").mkdir()
            for t, frame in enumerate(frames):
                Image.fromarray(frame).save(root / f"{number}" / f"{t}.png")
        else:
            first, *others = map(Image.fromarray, frames)
            first.save(root / f"{number}.gif", save_all=True, append_images=others)
    return root


def video_arguments(clips: Path, out: Path, *more: str) -> list[str]:
    model = (
        *("img_size=16", "patch_size=4", "frames=4", "embed_dim=24", "depth=1", "num_heads=2"),
        *("decoder_embed_dim=16", "decoder_depth=1", "decoder_num_heads=2"),
    )
    return [
        *("pretrain", str(clips), "--method", "videomae", "--model", "pretrain_videomae_small_patch16_224"),
        *("--method-options", "stride=2", "mask_ratio=0.5", "--model-options", *model, "--batch-size", "3"),
        *("--epochs", "6", "--lr", "4e-3", "--workers", "0", "--device", "cpu", "--precision", "fp32"),
        *("--out", str(out), *more),
    ]


def test_clips_train_a_video_encoder_from_the_command_line(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    main(video_arguments(clips, out))
    assert losses(out)[-1] < losses(out)[0]
    kept = Artefact.from_pretrained(out / "model")
    assert isinstance(kept.model, VideoTransformer) and not any("decoder" in name for name in kept.state_dict())
    assert kept.model(torch.randn(1, 3, 4, 16, 16)).shape == (1, 24)
    facts = json.loads((out / "metrics.json").read_text())
    assert facts["pictures"] == {"train": 9, "val": 3} and facts["feature_rank"] >= 1.0
    assert "data:image/" in (out / "report.html").read_text()


def test_clips_need_a_model_of_clips(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = PretrainConfig(data=str(clips), method="videomae", out=tmp_path / "run", **HERE)
    with pytest.raises(VitrailError, match="videomae trains an autoencoder of clips"):
        pretrain(config)
    with pytest.raises(SystemExit):
        main(video_arguments(tmp_path, tmp_path / "none"))
    assert "no clips there" in capsys.readouterr().err
