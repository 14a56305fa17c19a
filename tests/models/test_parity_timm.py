"""timm as the oracle: logits, features and gradients of converted models; names read and written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.models import Backbone, VisionTransformer
from vitrail.weights import Artefact, convert, load_checkpoint

from .peers import assert_same, perturb, pictures, save

timm = pytest.importorskip("timm")

SHORT = {"img_size": 64, "num_classes": 7, "depth": 2}
CASES = {
    "vit_ti": ("vit_tiny_patch16_224", SHORT),
    "vit_s32": ("vit_small_patch32_224", {**SHORT, "img_size": 96}),
    "vit_b": ("vit_base_patch16_224", SHORT),
    "vit_qk_norm": ("vit_tiny_patch16_224", {**SHORT, "qk_norm": True}),
    "vit_no_qkv_bias": ("vit_tiny_patch16_224", {**SHORT, "qkv_bias": False}),
    "vit_mean_pool_fc_norm": ("vit_tiny_patch16_224", {**SHORT, "global_pool": "avg"}),
    "vit_mean_pool_final_norm": ("vit_tiny_patch16_224", {**SHORT, "global_pool": "avg", "fc_norm": False}),
    "vit_attention_pool": (
        "vit_tiny_patch16_224",
        {**SHORT, "global_pool": "map", "class_token": False, "fc_norm": False},
    ),
    "vit_attention_pool_with_class_token": (
        "vit_tiny_patch16_224",
        {**SHORT, "global_pool": "map", "fc_norm": False},
    ),
    "vit_no_embed_class": ("vit_tiny_patch16_224", {**SHORT, "no_embed_class": True}),
    "deit_s": ("deit_small_patch16_224", SHORT),
    "deit_ti_distilled": ("deit_tiny_distilled_patch16_224", SHORT),
    "deit_b_distilled": ("deit_base_distilled_patch16_224", SHORT),
    "deit3_s": ("deit3_small_patch16_224", SHORT),
    "dinov2_s": ("vit_small_patch14_dinov2", {**SHORT, "img_size": 70}),
    "dinov2_s_registers": ("vit_small_patch14_reg4_dinov2", {**SHORT, "img_size": 70}),
    "dinov2_g_swiglu": ("vit_giant_patch14_dinov2", {**SHORT, "img_size": 56, "depth": 1}),
    "backbone_alone": ("vit_tiny_patch16_224", {**SHORT, "num_classes": 0}),
}
PARAMETERS = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.norm2.bias")


def peer(case: str, dynamic: bool = False) -> nn.Module:
    name, options = CASES[case]
    extra = {"dynamic_img_size": True} if dynamic else {}
    return perturb(timm.create_model(name, pretrained=False, **options, **extra))


def describe(case: str, tmp_path: Path) -> None:
    """What timm's own ``config.json`` says and the names do not."""
    if case == "vit_mean_pool_final_norm":
        (tmp_path / "config.json").write_text('{"architecture": "vit_tiny_patch16_224", "global_pool": "avg"}')


def load(model: nn.Module, tmp_path: Path) -> VisionTransformer:
    loaded = load_checkpoint(save(model, tmp_path / "model.safetensors"))
    assert isinstance(loaded.model, VisionTransformer)
    return loaded.model


def named(model: nn.Module) -> dict[str, torch.Tensor]:
    found = dict(model.named_parameters())
    return {name: found[name] for name in PARAMETERS if name in found}


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_timm(case: str, tmp_path: Path) -> None:
    theirs = peer(case)
    describe(case, tmp_path)
    ours = load(theirs, tmp_path)
    height, width = ours.img_size
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert_same(ours, theirs, pictures(height, width), named(ours), named(theirs))


@pytest.mark.parametrize(
    "case", ["vit_ti", "vit_mean_pool_fc_norm", "deit_ti_distilled", "dinov2_s_registers", "deit3_s"]
)
@pytest.mark.parametrize("scale", [(2, 2), (1, 2), (3, 2)])
def test_larger_and_non_square_pictures_equal_timm(case: str, scale: tuple[int, int], tmp_path: Path) -> None:
    theirs = peer(case, dynamic=True)
    ours = load(theirs, tmp_path)
    size = [side * factor for side, factor in zip(ours.img_size, scale, strict=True)]
    assert_same(ours, theirs, pictures(*size), named(ours), named(theirs))


@pytest.mark.parametrize("case", ["vit_b", "deit_b_distilled", "dinov2_s_registers"])
def test_features_after_every_block_equal_timm(case: str, tmp_path: Path) -> None:
    theirs = peer(case)
    ours = load(theirs, tmp_path)
    images = pictures(*ours.img_size)
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, norm=True, return_prefix_tokens=True, intermediates_only=True)
        found = ours.intermediates(images, [0, 1])
        torch.testing.assert_close(ours.features(images).values, theirs.forward_features(images), atol=1e-4, rtol=0)
    for tap, (patches, prefix) in zip(found, expected, strict=True):
        torch.testing.assert_close(tap.feature_map(), patches, atol=1e-4, rtol=0)
        torch.testing.assert_close(tap.prefix_values, prefix, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_small_patch16_224", "vit_base_patch16_224"])
def test_full_depth_equals_timm(name: str, tmp_path: Path) -> None:
    theirs = perturb(timm.create_model(name, pretrained=False, img_size=32, num_classes=10))
    ours = load(theirs, tmp_path)
    assert len(ours.blocks) == 12
    assert_same(ours, theirs, pictures(32, 32, batch=1), named(ours), named(theirs))


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith(("vit_b", "deit_b"))])
def test_written_for_timm_and_read_again_is_bit_equal(case: str, tmp_path: Path) -> None:
    theirs = peer(case)
    describe(case, tmp_path)
    file = save(theirs, tmp_path / "timm.safetensors")
    convert(file, tmp_path / "vitrail", to="vitrail")
    convert(tmp_path / "vitrail", tmp_path / "again", to="timm")
    fresh = timm.create_model(CASES[case][0], pretrained=False, **CASES[case][1])
    written = load_file(tmp_path / "again" / "model.safetensors")
    fresh.load_state_dict(written, strict=True)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(written[name], tensor), name


@pytest.mark.parametrize(
    "case", ["vit_ti", "vit_mean_pool_fc_norm", "deit_ti_distilled", "dinov2_s_registers", "vit_qk_norm"]
)
def test_the_written_folder_opens_in_timm(case: str, tmp_path: Path) -> None:
    theirs = peer(case)
    convert(save(theirs, tmp_path / "timm.safetensors"), tmp_path / "folder", to="timm")
    opened = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True).eval()
    size = theirs.patch_embed.img_size
    with torch.no_grad():
        assert torch.equal(opened(pictures(*size)), theirs(pictures(*size)))


def test_registers_with_class_position_are_folded_for_timm(tmp_path: Path) -> None:
    ours = VisionTransformer(
        load(peer("dinov2_s_registers"), tmp_path).config.__class__(
            img_size=70, patch_size=14, embed_dim=384, depth=1, num_heads=6, layer_scale=1.0, registers=4, num_classes=5
        )
    )
    perturb(ours)
    account = convert(_artefact(ours, tmp_path), tmp_path / "timm", to="timm")
    assert "cls_token" in account.changed
    theirs = timm.create_model("vit_small_patch14_reg4_dinov2", img_size=70, num_classes=5, depth=1)
    theirs.load_state_dict(load_file(tmp_path / "timm" / "model.safetensors"), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(ours(pictures(70, 70)), theirs.eval()(pictures(70, 70)), atol=1e-4, rtol=0)


def test_an_architecture_that_timm_lacks_is_refused(tmp_path: Path) -> None:
    ours = VisionTransformer(img_size=32, embed_dim=32, depth=1, num_heads=2, num_classes=3)
    parallel = VisionTransformer(ours.config.__class__(**{**vars(ours.config), "block": "parallel"}))
    with pytest.raises(VitrailError, match="timm"):
        convert(_artefact(parallel, tmp_path), tmp_path / "timm", to="timm")
    assert not (tmp_path / "timm").exists()


def _artefact(model: Backbone, tmp_path: Path) -> Path:
    Artefact(model, (), Preprocess(size=model.img_size)).save_pretrained(tmp_path / "artefact")
    return tmp_path / "artefact"
