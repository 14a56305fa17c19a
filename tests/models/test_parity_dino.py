"""DINO: its way of bringing positions to another size, written plainly, with timm as the oracle of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from vitrail.models import VisionTransformer, build, config_of
from vitrail.weights import create_model, load_checkpoint

from .peers import perturb, pictures

timm = pytest.importorskip("timm")

COUNTS = {
    "vit_small_patch16_dino": 21_665_664,
    "vit_small_patch8_dino": 21_670_272,
    "vit_base_patch16_dino": 85_798_656,
    "vit_base_patch8_dino": 85_807_872,
}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_exact_parameter_count(name: str, count: int) -> None:
    with torch.device("meta"):
        model = build(config_of(name))
    assert sum(p.numel() for p in model.parameters()) == count


def peer() -> nn.Module:
    """A small DINO: its backbone is timm's Vision Transformer without a head."""
    return perturb(timm.create_model("vit_small_patch8_224", pretrained=False, img_size=64, depth=2, num_classes=0))


def theirs_at(model: nn.Module, height: int, width: int) -> Tensor:
    """``interpolate_pos_encoding`` of DINO's ``vision_transformer.py``, with its 0.1, for an 8 × 8 table."""
    table = model.pos_embed
    if height == width == 64:
        return table
    factors = ((height // 8 + 0.1) / 8, (width // 8 + 0.1) / 8)
    patches = F.interpolate(table[:, 1:].reshape(1, 8, 8, -1).permute(0, 3, 1, 2), scale_factor=factors, mode="bicubic")
    assert patches.shape[-2:] == (height // 8, width // 8)
    return torch.cat([table[:, :1], patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


@pytest.mark.parametrize("weights", ["training", "backbone"])
@pytest.mark.parametrize("size", [(64, 64), (96, 40)])
def test_features_equal_those_of_the_authors_resize(size: tuple[int, int], weights: str, tmp_path: Path) -> None:
    theirs, images = peer(), pictures(*size)
    if weights == "training":
        # What main_dino.py saves: the teacher with its projection head, the student as DistributedDataParallel has it.
        head = {"head.mlp.0.weight": torch.ones(3, 3), "head.last_layer.weight_v": torch.ones(3, 3)}
        teacher = {f"backbone.{name}": tensor for name, tensor in theirs.state_dict().items()} | head
        student = {f"module.{name}": torch.zeros_like(tensor) for name, tensor in teacher.items()}
        file = tmp_path / "checkpoint.pth"
        torch.save({"student": student, "teacher": teacher, "epoch": 3}, file)
        loaded = load_checkpoint(file)
        ours = loaded.model
        assert set(loaded.account.dropped) == set(head) and "projection head" in str(loaded.account)
        assert "'teacher'" in str(loaded.account)
    else:
        file = tmp_path / "dino_deitsmall8_pretrain.safetensors"
        save_file(theirs.state_dict(), file)
        ours = create_model("vit_small_patch8_224.dino", pretrained=file, depth=2, img_size=64)
    assert isinstance(ours, VisionTransformer) and ours.config.pos_resize == "bicubic_offset"
    with torch.no_grad():
        found = ours.intermediates(images, [0, 1])
        table = theirs_at(theirs, *size)
        x = torch.cat([theirs.cls_token.expand(2, -1, -1), theirs.patch_embed.proj(images).flatten(2).mT], 1)
        x = x + table
        for tap, block in zip(found, theirs.blocks, strict=True):
            x = block(x)
            torch.testing.assert_close(tap.values, theirs.norm(x), atol=1e-4, rtol=0)


def test_a_fresh_model_has_the_same_resize() -> None:
    assert create_model("dino_vits16", depth=1).config.pos_resize == "bicubic_offset"
    assert create_model("vit_base_patch8_dino", depth=1).config.num_classes == 0
