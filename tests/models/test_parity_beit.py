"""timm and Transformers as the oracles of BEiT: logits, features and gradients of converted models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vitrail.models import Beit
from vitrail.weights import create_model, load_checkpoint, load_pretrained

from .peers import assert_same, perturb, pictures, save

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
TABLE = "relative_position_bias_table"
KINDS = {
    "layers": {"use_relative_position_bias": True},
    "shared": {"use_shared_relative_position_bias": True, "use_mask_token": True},
    "class": {"use_relative_position_bias": True, "use_mean_pooling": False},
}


def timm_peer(img_size: int | tuple[int, int] = 64, seed: int = 0, **options: object) -> nn.Module:
    arguments = {**SMALL, "num_classes": 5, "img_size": img_size, **options}
    return perturb(timm.create_model("beit_base_patch16_224", **arguments), seed)


def transformers_peer(kind: str, **options: object) -> nn.Module:
    numbers = {
        "image_size": 64,
        "patch_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "num_labels": 5,
    }
    config = transformers.BeitConfig(**{**numbers, **KINDS[kind], **options})
    return perturb(transformers.BeitForImageClassification(config))


def ours_of(theirs: nn.Module, folder: Path) -> Beit:
    made = load_checkpoint(save(theirs, folder / "peer.safetensors")).model
    assert isinstance(made, Beit)
    return made


def some(model: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {ours: parameters[theirs] for ours, theirs in names.items() if theirs in parameters}


OURS = {
    "table": f"blocks.1.attn.position_bias.{TABLE}",
    "shared": f"rel_pos_bias.{TABLE}",
    "q_bias": "blocks.0.attn.qkv.q_bias",
    "v_bias": "blocks.0.attn.qkv.v_bias",
    "scale": "blocks.1.ls2.gamma",
}
TIMM = {
    "table": f"blocks.1.attn.{TABLE}",
    "shared": f"rel_pos_bias.{TABLE}",
    "q_bias": "blocks.0.attn.q_bias",
    "v_bias": "blocks.0.attn.v_bias",
    "scale": "blocks.1.gamma_2",
}
TRANSFORMERS = {
    "table": f"beit.layers.1.relative_position_bias.{TABLE}",
    "shared": f"beit.shared_position_bias.{TABLE}",
    "q_bias": "beit.layers.0.attention.q_proj.bias",
    "v_bias": "beit.layers.0.attention.v_proj.bias",
    "scale": "beit.layers.1.lambda_2",
}


@pytest.mark.parametrize(
    "options",
    [{}, {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}, {"global_pool": "token"}],
    ids=["layers", "shared", "class"],
)
def test_equals_timm(options: dict, tmp_path: Path) -> None:
    theirs = timm_peer(**options)
    ours = ours_of(theirs, tmp_path)
    assert ours.config.shared_bias == bool(options.get("use_shared_rel_pos_bias"))
    assert ours.config.pool == ("class" if options.get("global_pool") else "mean") and ours.config.norm_eps == 1e-6
    images = pictures(64, 64)
    assert_same(ours, theirs, images, some(ours, OURS), some(theirs, TIMM))
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, intermediates_only=True)
        for found, block in zip(ours.feature_maps(images, norm=False), expected, strict=True):
            torch.testing.assert_close(found, block, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [96, (48, 80)])
@pytest.mark.parametrize("shared", [False, True])
def test_another_size_equals_timm(size: int | tuple[int, int], shared: bool, tmp_path: Path) -> None:
    options = {"use_rel_pos_bias": not shared, "use_shared_rel_pos_bias": shared}
    small, large = timm_peer(**options), timm_peer(size, seed=1, **options)
    large.load_state_dict(timm.models.beit.checkpoint_filter_fn(small.state_dict(), large))
    file = save(small, tmp_path / "peer.safetensors")
    loaded = load_pretrained("beit_base_patch16_224", file, img_size=size, **SMALL)
    assert loaded.model.config.shared_bias is False, "the named architecture has a table for each layer"
    assert set(loaded.account.changed) == {f"blocks.{i}.attn.position_bias.{TABLE}" for i in range(2)}
    images = pictures(*((size, size) if isinstance(size, int) else size))
    with torch.no_grad():
        expected = large.eval()(images)
        torch.testing.assert_close(loaded.model(images), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(load_checkpoint(file).model(images), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 64), (96, 96), (48, 80)])
def test_equals_transformers_at_every_size(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs = transformers_peer(kind)
    ours = ours_of(theirs, tmp_path)
    assert ours.config.norm_eps == 1e-12 and ours.config.bias_resize == "bilinear"
    images = pictures(*size)
    assert_same(ours, lambda x: theirs(x).logits, images, some(ours, OURS), some(theirs, TRANSFORMERS))
    with torch.no_grad():
        expected = theirs(images, output_hidden_states=True).hidden_states
        found = ours.intermediates(images, [0, 1], norm=False)
    for tap, hidden in zip(found, expected[1:], strict=True):
        torch.testing.assert_close(tap.values, hidden, atol=1e-4, rtol=0)


def test_masked_patches_equal_transformers(tmp_path: Path) -> None:
    theirs = transformers_peer("shared")
    ours = ours_of(theirs, tmp_path)
    mask = torch.rand(2, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    images = pictures(64, 64)
    with torch.no_grad():
        expected = theirs.beit(images, bool_masked_pos=mask).last_hidden_state
        found = ours.encode(ours.embed(images, mask=mask)).values
        assert not torch.allclose(found, ours.features(images).values)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_shared_table_handed_out_to_the_layers_gives_the_same_answers(tmp_path: Path) -> None:
    theirs = transformers_peer("shared")
    theirs.save_pretrained(tmp_path / "hub")
    ours = create_model("beit_base_patch16_224", pretrained=tmp_path / "hub", img_size=64, **SMALL)
    assert ours.config.shared_bias is False and ours.config.mask_token is False
    for size in ((64, 64), (48, 80)):
        with torch.no_grad():
            expected = theirs(pictures(*size)).logits
            torch.testing.assert_close(ours(pictures(*size)), expected, atol=1e-4, rtol=0)


def test_full_depth_equals_timm(tmp_path: Path) -> None:
    theirs = timm_peer(32, depth=12, embed_dim=192, num_heads=3)
    ours = ours_of(theirs, tmp_path)
    images = pictures(32, 32, batch=1)
    assert_same(ours, theirs, images, some(ours, OURS), some(theirs, TIMM))
