"""``vitrail pretrain`` with DINO and DINOv2, and the last phase at a larger size from the first run."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vitrail.contracts import VitrailError
from vitrail.jobs.pretrain import pretrain
from vitrail.jobs.pretrain_config import PretrainConfig
from vitrail.jobs.pretraining.heads import take_heads
from vitrail.methods import DINO, DINOOptions
from vitrail.models import VisionTransformer, ViTConfig

HEAD = ("prototypes=16", "hidden=16", "bottleneck=8", "local_crops=1")


def config(photos: Path, out: Path, method: str, *options: str, **changes: object) -> PretrainConfig:
    values: dict = {
        "data": str(photos),
        "method": method,
        "method_options": (*HEAD, *options),
        "model": "vit_tiny_patch16_224",
        "image_size": 16,
        "patch_size": 8,
        "model_options": ("depth=2", "embed_dim=32", "num_heads=2"),
        "crop": 1.0,
        "epochs": 2,
        "batch_size": 9,
        "workers": 0,
        "device": "cpu",
        "precision": "fp32",
        "pictured": 0,
        "report": False,
        "out": out,
    }
    return PretrainConfig(**{**values, **changes})


@pytest.mark.parametrize("method", ["dino", "dinov2"])
def test_a_run_and_its_last_phase_at_a_larger_size_with_the_same_heads(method: str, photos: Path, tmp_path: Path):
    small = pretrain(config(photos, tmp_path / "small", method))
    assert small is not None
    checkpoint = load_file(tmp_path / "small" / "checkpoint.safetensors")
    teacher = small.artefact.backbone.state_dict()
    for name, value in teacher.items():  # what is kept is the teacher
        assert torch.equal(value, checkpoint[f"method/teacher.{name}"]), name
    # No rate, no change: what the second run begins with is what the first one ended with.
    still = {"model": str(tmp_path / "small"), "pretrained": True, "model_options": (), "image_size": 24}
    rates = {"lr": 1e-30, "warmup_lr": 0.0, "epochs": 1, "weight_decay": 0.0}
    options = (f"heads={tmp_path / 'small'}", "momentum=1")
    large = pretrain(config(photos, tmp_path / "large", method, *options, **still, **rates))
    assert large is not None and large.artefact.backbone.img_size == (24, 24)
    after = load_file(tmp_path / "large" / "checkpoint.safetensors")
    for name in checkpoint:
        if name.startswith(("method/student_head", "method/teacher_head", "method/student_patch_head")):
            torch.testing.assert_close(after[name], checkpoint[name], atol=1e-6, rtol=1e-5)


def test_heads_that_do_not_fit_are_refused(photos: Path, tmp_path: Path):
    pretrain(config(photos, tmp_path / "run", "dino", epochs=1))
    model = ViTConfig(img_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    other = DINO(VisionTransformer(model), DINOOptions(prototypes=17, hidden=16, bottleneck=8))
    with pytest.raises(VitrailError, match=r"student_head.last_layer.weight is of \(16, 8\), not of \(17, 8\)"):
        take_heads(other, tmp_path / "run", ("student_head",))
    with pytest.raises(VitrailError, match="no checkpoint"):
        take_heads(other, tmp_path / "nothing", ("student_head",))


def test_heads_are_taken_without_a_trace_in_the_other_runs_folder(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    pretrain(config(photos, run, "dino", epochs=1))
    (run / "checkpoint.previous.safetensors").write_bytes((run / "checkpoint.safetensors").read_bytes())
    os.truncate(run / "checkpoint.safetensors", 1000)
    before = sorted(path.name for path in run.iterdir())
    model = ViTConfig(img_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    other = DINO(VisionTransformer(model), DINOOptions(prototypes=16, hidden=16, bottleneck=8))
    take_heads(other, run, ("student_head",))
    stored = load_file(run / "checkpoint.previous.safetensors")
    assert torch.equal(
        other.student_head.state_dict()["last_layer.weight"], stored["method/student_head.last_layer.weight"]
    )
    assert sorted(path.name for path in run.iterdir()) == before
    assert "damaged checkpoint passed over" in capsys.readouterr().err
