"""Pretrained weights for a model that differs from theirs; preprocessing that travels along; conversion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.models import VisionTransformer
from vitrail.nn.position import RESIZES, resize_positions
from vitrail.weights import convert, create_model, load_checkpoint, load_pretrained
from vitrail.weights.adapt import adapt_channels, resize_patches
from vitrail.weights.preprocessing import crop_share, from_timm, from_transformers, to_timm, to_transformers

from .builders import artefact, model, state


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return artefact(tmp_path / "m", mask_token=True, registers=2)


def test_another_size_resizes_positions_once_with_the_checkpoints_variant(folder: Path) -> None:
    for variant in RESIZES:
        found = load_pretrained(folder, img_size=(48, 64), pos_resize=variant)
        source = model(mask_token=True, registers=2)
        expected = resize_positions(source.pos_embed, (4, 4), (6, 8), RESIZES[variant])
        assert isinstance(found.model, VisionTransformer)
        assert torch.equal(found.model.pos_embed, expected)
        assert found.account.changed == {"pos_embed": f"grid 4×4 resized to 6×8 ({variant})"}
        assert found.preprocess.size == (48, 64) and found.classes == ("a", "b", "c", "d", "e")


def test_another_number_of_classes_gets_a_fresh_head_and_says_so(folder: Path) -> None:
    found = load_pretrained(folder, num_classes=3)
    assert found.model.num_classes == 3 and found.classes == ()
    assert set(found.account.dropped) == {"head.weight", "head.bias"} == set(found.account.missing)
    assert torch.equal(found.model.state_dict()["norm.bias"], state(model(mask_token=True, registers=2))["norm.bias"])
    assert set(found.account.missing.values()) == {"not in the checkpoint: initialised anew"}


def test_the_same_number_of_classes_keeps_the_head(folder: Path) -> None:
    found = load_pretrained(folder, num_classes=5, drop_path=0.1)
    assert not found.account.missing
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(found.model(images), model(mask_token=True, registers=2)(images))
    assert found.model.config.drop_path == 0.1


def test_another_pool_gets_a_fresh_head_and_norm(folder: Path) -> None:
    found = load_pretrained(folder, pool="mean", pool_norm=True)
    assert set(found.account.missing) == {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}
    assert set(found.account.dropped) == {"head.weight", "head.bias", "norm.weight", "norm.bias"}
    found = load_pretrained(folder, pool="attention", num_classes=0)
    assert all(name.startswith("attn_pool.") for name in found.account.missing) and len(found.account.missing) == 13


def test_bands_follow_the_usual_rule() -> None:
    weight = torch.randn(4, 3, 2, 2)
    assert torch.equal(adapt_channels(weight, 1), weight.sum(1, keepdim=True))
    five = adapt_channels(weight, 5)
    torch.testing.assert_close(five, torch.stack([weight[:, i % 3] for i in range(5)], 1) * 3 / 5)


def test_bands_equal_timm() -> None:
    timm = pytest.importorskip("timm.models")
    weight = torch.randn(4, 3, 2, 2)
    for bands in (1, 2, 4, 5, 13):
        torch.testing.assert_close(adapt_channels(weight, bands), timm.adapt_input_conv(bands, weight))


def test_bands_of_a_loaded_model_and_its_preprocessing(folder: Path) -> None:
    found = load_pretrained(folder, in_channels=6)
    source = state(model(mask_token=True, registers=2))["patch_embed.proj.weight"]
    torch.testing.assert_close(found.model.state_dict()["patch_embed.proj.weight"], torch.cat([source, source], 1) / 2)
    assert found.preprocess.bands == 6
    assert found.preprocess.mean[0] == pytest.approx(sum((0.485, 0.456, 0.406)) / 3)


@pytest.mark.parametrize("patch", [(8, 8), (20, 20), (12, 24)])
def test_patches_are_resized_as_timm_does(patch: tuple[int, int]) -> None:
    layers = pytest.importorskip("timm.layers")
    weight = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(
        resize_patches(weight, patch), layers.resample_patch_embed(weight, list(patch)), atol=1e-4, rtol=1e-3
    )


def test_upsampled_patches_give_the_same_tokens_for_upsampled_pictures() -> None:
    """The property by which the resize is defined, exact when patches grow."""
    weight, patches = torch.randn(5, 3, 8, 8), torch.randn(10, 3, 8, 8)
    grown = torch.nn.functional.interpolate(patches, (12, 12), mode="bicubic", antialias=True)
    before = torch.einsum("dchw,nchw->nd", weight, patches)
    after = torch.einsum("dchw,nchw->nd", resize_patches(weight, (12, 12)), grown)
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-4)


def test_another_patch_size_of_a_loaded_model(folder: Path) -> None:
    found = load_pretrained(folder, patch_size=16, img_size=64)
    source = state(model(mask_token=True, registers=2))["patch_embed.proj.weight"]
    assert torch.equal(found.model.state_dict()["patch_embed.proj.weight"], resize_patches(source, (16, 16)))
    assert "pos_embed" not in found.account.changed, "4×4 patches as before"
    assert "patches of 8 to 16 pixels" in found.account.changed["patch_embed.proj.weight"]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"embed_dim": 128}, r"embed_dim 64 \(asked for: 128\)"),
        ({"depth": 3}, r"depth 2 \(asked for: 3\)"),
        ({"num_heads": 2}, r"num_heads 1 \(asked for: 2\)"),
        ({"registers": 0}, r"registers 2 \(asked for: 0\)"),
        ({"layer_scale": 0.1}, "layer_scale None"),
        ({"positions": "sincos"}, "learned, not sine-cosine"),
        ({"widht": 1}, "no option widht"),
    ],
)
def test_another_architecture_is_refused_by_its_fields(overrides: dict, reason: str, folder: Path) -> None:
    with pytest.raises(VitrailError, match=reason):
        load_pretrained(folder, **overrides)


def test_a_name_with_weights_of_another_architecture(folder: Path) -> None:
    with pytest.raises(VitrailError, match=r"embed_dim 64 \(asked for: 192\)"):
        create_model("vit_tiny_patch16_224", pretrained=folder)


def test_a_file_fills_a_named_architecture_at_its_own_size(tmp_path: Path) -> None:
    made = model(embed_dim=192, num_heads=3, patch_size=16, depth=12, img_size=64)
    save_file(state(made), tmp_path / "ti.safetensors")
    found = create_model("vit_tiny_patch16_224", pretrained=tmp_path / "ti.safetensors")
    assert found.img_size == (224, 224) and found.num_classes == 5
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(
            create_model("vit_tiny_patch16_224", pretrained=tmp_path / "ti.safetensors", img_size=64)(images),
            made(images),
        )


def test_fresh_models_train_and_pretrained_ones_evaluate(folder: Path) -> None:
    assert create_model("vit_tiny_patch16_224", depth=1, num_classes=2).training
    assert not create_model(str(folder), pretrained=True).training


def test_files_that_do_not_say_their_preprocessing_get_a_default_that_is_said(tmp_path: Path) -> None:
    save_file(state(model()), tmp_path / "x.safetensors")
    loaded = load_checkpoint(tmp_path / "x.safetensors")
    assert loaded.preprocess == Preprocess(size=(32, 32))
    assert "does not stand in the checkpoint" in str(loaded.account)
    with pytest.raises(VitrailError, match="no such file"):
        load_checkpoint(tmp_path / "y.safetensors")


# ---------------------------------------------------------------------- preprocessing of others


@pytest.mark.parametrize(("size", "resized"), [(224, 256), (518, 518), (384, 438), (384, 439), (98, 112), (299, 342)])
def test_crop_share_is_exact(size: int, resized: int) -> None:
    assert int(size / crop_share(size, resized)) == resized


@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("crop", [1.0, 0.875])
def test_preprocessing_goes_to_others_and_back(resize: str, crop: float) -> None:
    ours = Preprocess(size=(224, 224), crop=crop, resize=resize, interpolation="bilinear", mean=(0.1, 0.2, 0.3))
    assert from_transformers(to_transformers(ours)) == ours
    assert from_timm({**to_timm(ours), "input_size": [3, 224, 224]}) == ours


def test_old_transformers_spelling_of_sizes() -> None:
    old = {"size": 256, "crop_size": 224, "do_center_crop": True, "resample": 3, "image_mean": [0.5] * 3}
    found = from_transformers(old)
    assert (found.size, found.resize, int(found.size[0] / found.crop)) == ((224, 224), "squash", 256)
    assert from_transformers({"size": 224, "do_resize": True, "image_std": [0.5] * 3}).crop == 1.0


def test_transformers_processor_gives_what_ours_gives(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    for resize, crop in (("shortest", 0.875), ("squash", 1.0), ("squash", 0.875)):
        ours = Preprocess(size=(56, 56), crop=crop, resize=resize, interpolation="bicubic")
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(to_transformers(ours)))
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
        pixels = torch.randint(0, 256, (90, 120, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        picture = Image.fromarray(pixels.numpy())
        theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
        assert float((ours(picture) - theirs).abs().max()) < 0.06, "three steps of 8 bits, from another resize kernel"


def test_preprocessing_beside_the_weights_is_read_and_nonsense_refused(tmp_path: Path) -> None:
    convert(artefact(tmp_path / "m"), tmp_path / "hub", to="transformers")
    assert load_checkpoint(tmp_path / "hub").preprocess.size == (32, 32)
    file = tmp_path / "hub" / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "resample": 5}))
    with pytest.raises(VitrailError, match="preprocessing cannot be understood"):
        load_checkpoint(tmp_path / "hub")


# ---------------------------------------------------------------------- conversion


@pytest.mark.parametrize("to", ["timm", "transformers", "vitrail"])
def test_class_names_and_preprocessing_survive_conversion(to: str, tmp_path: Path) -> None:
    source = artefact(tmp_path / "m")
    account = convert(source, tmp_path / "out", to=to)
    assert str(account).startswith(str(source))
    before, after = load_checkpoint(source), load_checkpoint(tmp_path / "out")
    assert after.classes == before.classes == ("a", "b", "c", "d", "e")
    assert after.preprocess.size == (32, 32) and after.preprocess.mean == before.preprocess.mean
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(after.model.state_dict()[name], tensor), name


@pytest.mark.parametrize("to", ["timm", "transformers"])
def test_a_file_gets_the_weights_alone(to: str, tmp_path: Path) -> None:
    convert(artefact(tmp_path / "m"), tmp_path / "out.safetensors", to=to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out.safetensors"]
    images = torch.randn(1, 3, 32, 32)
    expected = model()(images)
    # Transformers' epsilon, 1e-12, stands in no tensor: only its config.json would have told ours.
    torch.testing.assert_close(
        load_checkpoint(tmp_path / "out.safetensors").model(images), expected, atol=1e-4, rtol=1e-4
    )


def test_nothing_is_overwritten_and_other_kinds_are_refused(tmp_path: Path) -> None:
    source = artefact(tmp_path / "m")
    with pytest.raises(VitrailError, match="exists: nothing is overwritten"):
        convert(source, source, to="timm")
    with pytest.raises(VitrailError, match=r"not as \.pth"):
        convert(source, tmp_path / "x.pth", to="timm")
    with pytest.raises(VitrailError, match="an artefact is a folder"):
        convert(source, tmp_path / "x.safetensors", to="vitrail")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
