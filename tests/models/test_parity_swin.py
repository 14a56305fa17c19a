"""timm and Transformers as the oracles of Swin: logits, stages and gradients of converted models.

Where windows do not divide a grid, Transformers (and the authors' detectors) fill it up before windows are moved, timm
afterwards. Here it is before; timm is the oracle where windows divide the grid.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vitrail.models import Swin
from vitrail.weights import create_model, load_checkpoint, load_pretrained

from .peers import assert_same, perturb, pictures, save

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

FOUR = {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4)}
TABLE = "relative_position_bias_table"


def timm_peer(img_size: tuple[int, int], window_size: int = 7, seed: int = 0, **options: object) -> nn.Module:
    arguments = {**FOUR, "num_classes": 5, "img_size": img_size, "window_size": window_size, **options}
    return perturb(timm.create_model("swin_tiny_patch4_window7_224", **arguments), seed)


def transformers_peer(**options: object) -> nn.Module:
    numbers = {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
    config = transformers.SwinConfig(**{**numbers, "num_labels": 5, **options})
    return perturb(transformers.SwinForImageClassification(config))


def ours_of(theirs: nn.Module, folder: Path) -> Swin:
    made = load_checkpoint(save(theirs, folder / "peer.safetensors")).model
    assert isinstance(made, Swin)
    return made


def some(model: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {ours: parameters[theirs] for ours, theirs in names.items()}


OURS = {
    "table": f"layers.0.blocks.1.attn.mixer.position_bias.{TABLE}",
    "qkv": "layers.0.blocks.1.attn.mixer.proj.weight",
    "merging": "layers.1.downsample.reduction.weight",
    "patches": "patch_embed.proj.weight",
}
TIMM = {
    **OURS,
    "table": f"layers.0.blocks.1.attn.{TABLE}",
    "qkv": "layers.0.blocks.1.attn.proj.weight",
}
TRANSFORMERS = {
    "table": f"swin.encoder.layers.0.blocks.1.attention.relative_position_bias.{TABLE}",
    "qkv": "swin.encoder.layers.0.blocks.1.attention.o_proj.weight",
    "merging": "swin.encoder.layers.0.downsample.reduction.weight",
    "patches": "swin.embeddings.patch_embeddings.projection.weight",
}


@pytest.mark.parametrize(
    ("img_size", "window"), [((224, 224), 7), ((224, 448), 7), ((64, 96), 2), ((64, 64), 4), ((448, 224), 7)]
)
def test_equals_timm_where_windows_divide_the_grid(img_size: tuple[int, int], window: int, tmp_path: Path) -> None:
    theirs = timm_peer(img_size, window)
    ours = ours_of(theirs, tmp_path)
    images = pictures(*img_size, batch=1)
    assert_same(ours, theirs, images, some(ours, OURS), some(theirs, TIMM))
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, norm=True, intermediates_only=True)
        for found, stage in zip(ours.feature_maps(images), expected, strict=True):
            torch.testing.assert_close(found, stage, atol=1e-4, rtol=0)


def test_a_small_picture_gets_smaller_windows_as_in_timm(tmp_path: Path) -> None:
    theirs = timm_peer((64, 64))
    ours = ours_of(theirs, tmp_path)
    assert ours.config.windows == ((7, 7), (7, 7), (4, 4), (2, 2)) and ours.config.img_size == 64
    theirs = timm_peer((56, 56))
    ours = ours_of(theirs, tmp_path)
    images = pictures(56, 56)
    assert_same(ours, theirs, images, some(ours, OURS), some(theirs, TIMM))


@pytest.mark.parametrize("size", [(64, 64), (60, 100), (44, 72), (68, 64)])
@pytest.mark.parametrize("window", [3, 4])
def test_equals_transformers_on_every_grid(size: tuple[int, int], window: int, tmp_path: Path) -> None:
    theirs = transformers_peer(window_size=window)
    ours = ours_of(theirs, tmp_path)
    images = pictures(*size)
    assert_same(ours, lambda x: theirs(x).logits, images, some(ours, OURS), some(theirs, TRANSFORMERS))
    with torch.no_grad():
        expected = theirs(images, output_hidden_states=True).reshaped_hidden_states
        embedded, merged = ours.embed(images), ours.layers[1].downsample(ours.layers[0](ours.embed(images)))
        last = ours.intermediates(images, [1], norm=False)[0]
    for found, stage in zip((embedded, merged, last), expected, strict=True):
        torch.testing.assert_close(found.feature_map(), stage, atol=1e-4, rtol=0)


def test_full_depth_equals_both(tmp_path: Path) -> None:
    theirs = transformers_peer(
        image_size=224, depths=[2, 2, 6, 2], num_heads=[1, 2, 4, 8], window_size=7, embed_dim=32, num_labels=3
    )
    ours = ours_of(theirs, tmp_path)
    assert ours.config.img_size == 224
    images = pictures(224, 224, batch=1)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images).logits, atol=1e-4, rtol=0)


def test_recorded_attention_equals_transformers(tmp_path: Path) -> None:
    from vitrail.explanations import record

    theirs = transformers_peer(depths=[1, 1], attn_implementation="eager")
    ours = ours_of(theirs, tmp_path)
    images = pictures(64, 64, batch=1)
    with record(ours, queries=((5, 6),)) as attention, torch.no_grad():
        ours(images)
        expected = theirs(images, output_attentions=True).attentions[0]
    window = expected[1 * 4 + 1, :, 1 * 4 + 2].view(1, 4, 4)  # the query's window, and its place in it
    torch.testing.assert_close(attention.maps(0)[0, :, 0, 4:8, 4:8], window, atol=1e-5, rtol=0)


def test_another_window_resizes_tables_as_timm_does(tmp_path: Path) -> None:
    small, large = timm_peer((224, 224)), timm_peer((384, 384), 12, seed=1)
    filtered = timm.models.swin_transformer.checkpoint_filter_fn(small.state_dict(), large)
    large.load_state_dict(filtered)
    file = save(small, tmp_path / "peer.safetensors")
    options = {**FOUR, "img_size": 384, "window_size": 12}
    loaded = load_pretrained("swin_tiny_patch4_window7_224", file, **options)
    assert loaded.model.config.windows == ((12, 12),) * 4
    assert len(loaded.account.changed) == 8
    assert next(iter(loaded.account.changed.values())) == "distances on 7×7 patches resized to 12×12 (geometric)"
    images = pictures(384, 384, batch=1)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), large.eval()(images), atol=1e-4, rtol=0)


def test_another_size_keeps_the_windows_and_their_tables(tmp_path: Path) -> None:
    small, large = timm_peer((224, 224)), timm_peer((448, 448), seed=1)
    large.load_state_dict(small.state_dict())
    file = save(small, tmp_path / "peer.safetensors")
    ours = create_model("swin_tiny_patch4_window7_224", pretrained=file, img_size=448, **FOUR)
    images = pictures(448, 448, batch=1)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), large.eval()(images), atol=1e-4, rtol=0)
        torch.testing.assert_close(load_checkpoint(file).model(images), ours(images), atol=0, rtol=0)
