"""Every format: recognised by its names, read to the same weights, every tensor accounted for."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vitrail.models import VisionTransformer
from vitrail.weights import CheckpointError, create_model, load_checkpoint
from vitrail.weights.formats import recognise

from .builders import artefact, google_npz, model, state


def assert_reads(file: Path, expected: VisionTransformer, **config: object) -> VisionTransformer:
    """The file holds exactly the expected model."""
    loaded = load_checkpoint(file)
    made = loaded.model
    assert isinstance(made, VisionTransformer)
    wanted = expected.state_dict()
    assert made.state_dict().keys() == wanted.keys()
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    for name, value in config.items():
        assert getattr(made.config, name) == value, name
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(made(images), expected(images))
    return made


# ---------------------------------------------------------------------- Google


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/"])
@pytest.mark.parametrize("numbering", ["flax", "big_vision", "stacked"])
def test_google_layouts_read_to_the_same_weights(numbering: str, prefix: str, tmp_path: Path) -> None:
    expected = model(embed_dim=64, num_heads=4)
    file = tmp_path / "B_16.npz"
    np.savez(file, **google_npz(state(expected), 4, numbering, prefix))
    assert_reads(file, expected, num_heads=4, norm_eps=1e-6, pos_resize="bicubic_antialias", pool="class")


def test_google_contrastive_image_tower_with_attention_pool(tmp_path: Path) -> None:
    expected = model(num_heads=4, class_token=False, pool="attention", num_classes=0)
    tensors = google_npz(state(expected), 4, "stacked", "params/img/")
    tensors |= {"params/t": np.zeros(1), "params/b": np.zeros(1)}
    np.savez(tmp_path / "siglip.npz", **tensors)
    assert_reads(tmp_path / "siglip.npz", expected, pool="attention", class_token=False)
    dropped = load_checkpoint(tmp_path / "siglip.npz").account.dropped
    assert set(dropped) == {"params/t", "params/b"}


def test_google_files_equal_what_timm_reads_from_them(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    expected = model(embed_dim=192, num_heads=3, patch_size=16, img_size=32)
    np.savez(tmp_path / "Ti_16.npz", **google_npz(state(expected), 3, "flax"))
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5).eval()
    theirs.load_pretrained(str(tmp_path / "Ti_16.npz"))
    ours = load_checkpoint(tmp_path / "Ti_16.npz").model
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=0)


def test_google_bfloat16_is_read_by_its_bytes(tmp_path: Path) -> None:
    expected = model(num_heads=1)
    for parameter in expected.parameters():
        parameter.data = parameter.data.bfloat16().float()
    arrays = google_npz(state(expected), 1, "flax")
    as_bytes = {
        name: torch.from_numpy(v.copy()).bfloat16().view(torch.int16).numpy().view("V2") for name, v in arrays.items()
    }
    np.savez(tmp_path / "half.npz", **as_bytes)
    assert_reads(tmp_path / "half.npz", expected)


# ---------------------------------------------------------------------- the authors' .pth


def official(weights: dict[str, Tensor], chunks: bool = False) -> dict[str, Tensor]:
    """Our names as DINOv2's authors have them."""
    out = {}
    for name, tensor in weights.items():
        name = name.replace("reg_token", "register_tokens")
        if chunks and name.startswith("blocks."):
            number = int(name.split(".")[1])
            name = name.replace("blocks.", f"blocks.{number // 1}.", 1)
        out[name] = tensor
    return out


@pytest.mark.parametrize("chunks", [False, True])
@pytest.mark.parametrize(
    ("options", "variant"),
    [
        ({}, "bicubic_offset"),
        ({"registers": 4}, "bicubic_antialias"),
        ({"mlp": "swiglu"}, "bicubic_offset"),
    ],
)
def test_dinov2_by_its_authors(options: dict, variant: str, chunks: bool, tmp_path: Path) -> None:
    expected = model(num_classes=0, layer_scale=1e-5, mask_token=True, **options)
    torch.save(official(state(expected), chunks), tmp_path / "dinov2.pth")
    assert_reads(tmp_path / "dinov2.pth", expected, pos_resize=variant, class_position=True, norm_eps=1e-6)


def test_dino_training_checkpoint_gives_the_teacher(tmp_path: Path) -> None:
    expected, other = model(num_classes=0), model(num_classes=0)
    torch.nn.init.zeros_(other.norm.weight)
    head = {"head.mlp.0.weight": torch.ones(3, 64), "head.last_layer.weight_g": torch.ones(3, 1)}
    teacher = {**{f"backbone.{name}": tensor for name, tensor in state(expected).items()}, **head}
    student = {**{f"module.backbone.{name}": tensor for name, tensor in state(other).items()}}
    args = argparse.Namespace(arch="vit_small", lr=0.1)
    torch.save({"student": student, "teacher": teacher, "epoch": 3, "args": args}, tmp_path / "checkpoint.pth")
    assert_reads(tmp_path / "checkpoint.pth", expected, pos_resize="bicubic_offset")
    assert set(load_checkpoint(tmp_path / "checkpoint.pth").account.dropped) == set(head)


def test_data_parallel_prefix_is_taken_off(tmp_path: Path) -> None:
    expected = model()
    torch.save({"state_dict": {f"module.{n}": t for n, t in state(expected).items()}, "epoch": 1}, tmp_path / "run.pth")
    assert_reads(tmp_path / "run.pth", expected)


def test_mae_fine_tuned_with_global_pool(tmp_path: Path) -> None:
    expected = model(pool="mean", pool_norm=True)
    torch.save({"model": state(expected)}, tmp_path / "mae_ft.pth")
    assert "norm.weight" not in state(expected)
    assert_reads(tmp_path / "mae_ft.pth", expected, pool="mean", pool_norm=True)


def test_deit_iii_layer_scales(tmp_path: Path) -> None:
    expected = model(layer_scale=1e-5, class_position=False)
    renamed = {n.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t for n, t in state(expected).items()}
    assert "blocks.0.gamma_1" in renamed
    torch.save({"model": renamed}, tmp_path / "deit3.pth")
    assert_reads(tmp_path / "deit3.pth", expected, class_position=False)


def test_tanh_layer_of_the_first_vit_is_dropped_and_said(tmp_path: Path) -> None:
    expected = model()
    torch.save({**state(expected), "pre_logits.fc.weight": torch.ones(3, 3)}, tmp_path / "old.pth")
    assert_reads(tmp_path / "old.pth", expected)
    account = load_checkpoint(tmp_path / "old.pth").account
    assert list(account.dropped) == ["pre_logits.fc.weight"]
    assert "pre_logits.fc.weight: the tanh layer" in str(account)


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    expected = model()
    save_file({name: tensor.half() for name, tensor in state(expected).items()}, tmp_path / "half.safetensors")
    made = load_checkpoint(tmp_path / "half.safetensors").model
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    assert torch.equal(made.state_dict()["norm.bias"], state(expected)["norm.bias"].half().float())


# ---------------------------------------------------------------------- recognition and account

NAMES = {
    "timm": ["cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"],
    "DINO or DINOv2 by its authors": ["mask_token", "patch_embed.proj.weight", "blocks.0.0.attn.qkv.weight"],
    "MAE pretraining by its authors": ["mask_token", "decoder_embed.weight", "blocks.0.attn.qkv.weight"],
    "VideoMAE by its authors": ["encoder.patch_embed.proj.weight"]
    + [f"encoder.blocks.0.attn.{part}" for part in ("qkv.weight", "q_bias", "v_bias")],
    "Transformers (vit_mae)": [
        "vit.embeddings.patch_embeddings.projection.weight",
        "vit.embeddings.position_embeddings",
        "decoder.decoder_embed.weight",
    ],
    "Transformers (videomae)": [
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layer.0.attention.attention.query.weight",
    ],
    "Google npz": ["params/img/embedding/kernel", "params/t"],
    "big_vision SigLIP npz": ["params/img/embedding/kernel", "params/txt/x"],
    "OpenAI CLIP and open_clip": ["visual.conv1.weight", "visual.class_embedding", "positional_embedding"],
    "Transformers CLIP and SigLIP": ["vision_model.embeddings.patch_embedding.weight"],
    "timm image tower": ["patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm_pre.weight"],
    "Transformers": ["dinov2.embeddings.patch_embeddings.projection.weight"],
}


@pytest.mark.parametrize(("name", "keys"), NAMES.items())
def test_formats_are_recognised_by_names(name: str, keys: list[str]) -> None:
    assert recognise(keys).name == name


def test_an_unknown_family_says_what_was_seen(tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.ones(1), "fc.bias": torch.ones(1)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"resnet\.pth: no known .* fc\.bias, layer1\.0\.conv1\.weight.*timm"):
        load_checkpoint(tmp_path / "resnet.pth")


def test_a_tensor_nobody_knows_is_an_error_that_names_it(tmp_path: Path) -> None:
    torch.save({**state(model()), "norm_mid.weight": torch.ones(64)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth.*norm_mid\.weight"):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["norm.bias", "blocks.1.mlp.fc2.weight", "blocks.0.attn.qkv.weight", "cls_token"])
def test_a_missing_tensor_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    weights = state(model())
    del weights[name]
    torch.save(weights, tmp_path / "x.pth")
    wanted = "position table" if name == "cls_token" else r"known|" + name.replace(".", r"\.")
    with pytest.raises(CheckpointError, match=rf"x\.pth.*({wanted})"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    torch.save({**state(model()), "blocks.1.attn.proj.bias": torch.ones(65)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.proj\.bias has shape \(65,\).*\(64,\)"):
        load_checkpoint(tmp_path / "x.pth")


def test_every_tensor_stands_in_the_account_once(tmp_path: Path) -> None:
    folder = artefact(tmp_path / "a")
    account = load_checkpoint(folder).account
    assert set(account.translated) == set(state(model())) and not account.dropped and not account.missing
    assert (
        str(account)
        .splitlines()[0]
        .endswith("(Vitrail artefact): 31 tensors translated".replace("31", str(len(state(model())))))
    )


def test_a_path_stands_for_its_architecture_alone_without_pretrained(tmp_path: Path) -> None:
    folder = artefact(tmp_path / "a")
    fresh = create_model(str(folder), num_classes=2)
    assert fresh.num_classes == 2 and len(fresh.state_dict()) == len(state(model()))
    assert not torch.equal(fresh.state_dict()["norm.weight"], state(model())["norm.weight"])
