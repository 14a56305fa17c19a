"""Transformers as the oracle: logits, features and gradients of converted models; both namings read, one written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.models import VisionTransformer, ViTConfig
from vitrail.weights import Artefact, convert, load_checkpoint

from .peers import assert_same, perturb, pictures, save

transformers = pytest.importorskip("transformers")

WIDTHS = {"ti": (192, 3), "s": (384, 6), "b": (768, 12)}
CASES = {
    "vit_ti": ("ViT", "ViTForImageClassification", "ti", {}),
    "vit_s": ("ViT", "ViTForImageClassification", "s", {}),
    "vit_b": ("ViT", "ViTForImageClassification", "b", {}),
    "vit_no_qkv_bias": ("ViT", "ViTForImageClassification", "ti", {"qkv_bias": False}),
    "deit_s": ("DeiT", "DeiTForImageClassificationWithTeacher", "s", {}),
    "deit_b_distilled": ("DeiT", "DeiTForImageClassificationWithTeacher", "b", {}),
    "dinov2_s": ("Dinov2", "Dinov2ForImageClassification", "s", {}),
    "dinov2_b": ("Dinov2", "Dinov2ForImageClassification", "b", {}),
    "dinov2_swiglu": ("Dinov2", "Dinov2ForImageClassification", "s", {"use_swiglu_ffn": True}),
    "dinov2_s_registers": ("Dinov2WithRegisters", "Dinov2WithRegistersForImageClassification", "s", {}),
    "dinov2_b_registers": ("Dinov2WithRegisters", "Dinov2WithRegistersForImageClassification", "b", {}),
}
NAMINGS = [case for case in CASES if "_b" not in case]
"""Base width has the names of the small ones."""
BARE = {
    "vit_ti": "ViTModel",
    "deit_s": "DeiTModel",
    "dinov2_s": "Dinov2Model",
    "dinov2_s_registers": "Dinov2WithRegistersModel",
}
PARAMETERS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "blocks.0.attn.proj.weight": "attention.o_proj.weight",
    "norm.bias": "layernorm.bias",
}


def peer(case: str, kind: str | None = None, depth: int = 2, img_size: int = 64) -> nn.Module:
    family, classifier, width, options = CASES[case]
    dim, heads = WIDTHS[width]
    sizes = {"mlp_ratio": 4} if family.startswith("Dinov2") else {"intermediate_size": 4 * dim}
    config = getattr(transformers, f"{family}Config")(
        hidden_size=dim,
        num_attention_heads=heads,
        num_hidden_layers=depth,
        image_size=img_size,
        patch_size=16,
        num_labels=5,
        **sizes,
        **options,
    )
    return perturb(getattr(transformers, kind or classifier)(config))


def load(model: nn.Module, folder: Path) -> VisionTransformer:
    model.save_pretrained(folder)
    ours = load_checkpoint(folder).model
    assert isinstance(ours, VisionTransformer)
    return ours


def theirs_by_our_names(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for ours, ending in PARAMETERS.items():
        found[ours] = next(p for name, p in model.named_parameters() if name.endswith(ending))
    return found


def ours_by_name(model: nn.Module) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in PARAMETERS}


def test_dinov2_of_the_register_family_without_any_registers(tmp_path: Path) -> None:
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8, num_register_tokens=0
    )
    theirs = perturb(transformers.Dinov2WithRegistersModel(config))
    theirs.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert "no registers" in loaded.account.dropped["embeddings.register_tokens"]
    with torch.no_grad():
        for size in ((32, 32), (24, 40)):
            expected = theirs(pictures(*size)).last_hidden_state
            torch.testing.assert_close(loaded.model.features(pictures(*size)).values, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_transformers(case: str, tmp_path: Path) -> None:
    theirs = peer(case)
    ours = load(theirs, tmp_path / "hub")
    assert ours.config.norm_eps == (1e-6 if case.startswith("dinov2") else 1e-12)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert_same(ours, lambda x: theirs(x).logits, pictures(64, 64), ours_by_name(ours), theirs_by_our_names(theirs))


@pytest.mark.parametrize("case", ["vit_ti", "deit_s", "dinov2_s", "dinov2_s_registers"])
@pytest.mark.parametrize("size", [(128, 128), (64, 96), (32, 80)])
def test_larger_and_non_square_pictures_equal_transformers(case: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs = peer(case)
    ours = load(theirs, tmp_path / "hub")
    options = {} if case.startswith("dinov2") else {"interpolate_pos_encoding": True}
    ours_named, theirs_named = ours_by_name(ours), theirs_by_our_names(theirs)
    assert_same(ours, lambda x: theirs(x, **options).logits, pictures(*size), ours_named, theirs_named)


@pytest.mark.parametrize("case", BARE)
def test_features_of_bare_backbones_equal_transformers(case: str, tmp_path: Path) -> None:
    theirs = peer(case, BARE[case])
    ours = load(theirs, tmp_path / "hub")
    assert ours.num_classes == 0
    with torch.no_grad():
        expected = theirs(pictures(64, 64), output_hidden_states=True)
        found = ours.intermediates(pictures(64, 64), [0, 1], norm=False)
        tokens = ours.features(pictures(64, 64))
    torch.testing.assert_close(tokens.values, expected.last_hidden_state, atol=1e-4, rtol=0)
    for tap, hidden in zip(found, expected.hidden_states[1:], strict=True):
        torch.testing.assert_close(tap.values, hidden, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("case", ["vit_ti", "vit_b", "dinov2_s"])
def test_full_depth_equals_transformers(case: str, tmp_path: Path) -> None:
    theirs = peer(case, depth=12, img_size=32)
    ours = load(theirs, tmp_path / "hub")
    images = pictures(32, 32, batch=1)
    assert_same(ours, lambda x: theirs(x).logits, images, ours_by_name(ours), theirs_by_our_names(theirs))


@pytest.mark.parametrize("case", NAMINGS)
def test_names_of_modules_in_memory_read_as_those_of_files(case: str, tmp_path: Path) -> None:
    theirs = peer(case)
    from_files = load(theirs, tmp_path / "hub").state_dict()
    in_memory = load_checkpoint(save(theirs, tmp_path / "memory" / "model.safetensors"))
    assert theirs.state_dict().keys() != load_file(tmp_path / "hub" / "model.safetensors").keys()
    for name, tensor in in_memory.model.state_dict().items():
        assert torch.equal(tensor, from_files[name]), name
    with torch.no_grad():
        expected = theirs(pictures(64, 64)).logits
        torch.testing.assert_close(in_memory.model(pictures(64, 64)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", NAMINGS)
def test_written_for_transformers_opens_there_bit_equal(case: str, tmp_path: Path) -> None:
    theirs = peer(case)
    theirs.save_pretrained(tmp_path / "hub")
    convert(tmp_path / "hub", tmp_path / "vitrail", to="vitrail")
    convert(tmp_path / "vitrail", tmp_path / "again", to="transformers")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("hub", "again"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    opened, info = type(theirs).from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    with torch.no_grad():
        assert torch.equal(opened.eval()(pictures(64, 64)).logits, theirs(pictures(64, 64)).logits)


def test_written_folder_opens_with_the_auto_classes(tmp_path: Path) -> None:
    theirs = peer("dinov2_s")
    theirs.config.id2label = {i: f"kind {i}" for i in range(5)}
    theirs.save_pretrained(tmp_path / "hub")
    convert(tmp_path / "hub", tmp_path / "again", to="transformers")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "again")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "again")
    assert type(model).__name__ == "Dinov2ForImageClassification"
    assert model.config.id2label[3] == "kind 3"
    assert dict(processor.crop_size) == {"height": 64, "width": 64}
    assert load_checkpoint(tmp_path / "again").classes == tuple(f"kind {i}" for i in range(5))


def test_a_timm_model_becomes_a_transformers_model(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = perturb(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5))
    convert(save(theirs, tmp_path / "timm.safetensors"), tmp_path / "hub", to="transformers")
    opened = transformers.ViTForImageClassification.from_pretrained(tmp_path / "hub").eval()
    assert opened.config.layer_norm_eps == 1e-6
    with torch.no_grad():
        torch.testing.assert_close(opened(pictures(64, 64)).logits, theirs(pictures(64, 64)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"class_token": False, "pool": "mean"}, "no class token"),
        ({"block": "parallel"}, "parallel"),
        ({"qk_norm": True}, "normalised"),
        ({"pool": "mean"}, "classifier reads 'mean'"),
        ({"registers": 2}, "registers"),
    ],
)
def test_architectures_that_transformers_lacks_are_refused(changes: dict, reason: str, tmp_path: Path) -> None:
    from vitrail.data import Preprocess

    config = ViTConfig(img_size=32, embed_dim=32, depth=1, num_heads=2, num_classes=3, **changes)
    Artefact(VisionTransformer(config), (), Preprocess(size=(32, 32))).save_pretrained(tmp_path / "a")
    with pytest.raises(VitrailError, match=reason):
        convert(tmp_path / "a", tmp_path / "hub", to="transformers")
    assert not (tmp_path / "hub").exists()


def test_config_that_contradicts_the_tensors_is_refused(tmp_path: Path) -> None:
    peer("vit_ti").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "quick_gelu"}))
    with pytest.raises(VitrailError, match="quick_gelu"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "dinov2"}))
    with pytest.raises(VitrailError, match="dinov2"):
        load_checkpoint(tmp_path)
