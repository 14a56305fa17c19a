"""Exact parameter counts of the published sizes, built without memory."""

from __future__ import annotations

import pytest
import torch

from vitrail.models import build, config_of

COUNTS = {
    "vit_tiny_patch16_224": 5_717_416,
    "vit_small_patch16_224": 22_050_664,
    "vit_base_patch16_224": 86_567_656,
    "vit_base_patch16_384": 86_859_496,
    "vit_large_patch16_224": 304_326_632,
    "vit_huge_patch14_224": 632_045_800,
    "deit_small_patch16_224": 22_050_664,
    "deit_small_distilled_patch16_224": 22_436_432,
    "deit_base_distilled_patch16_224": 87_338_192,
    "vit_small_patch14_dinov2": 22_056_576,
    "vit_base_patch14_dinov2": 86_580_480,
    "vit_large_patch14_dinov2": 304_368_640,
    "vit_giant_patch14_dinov2": 1_136_480_768,
}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_exact_parameter_count(name: str, count: int) -> None:
    with torch.device("meta"):
        model = build(config_of(name))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("size", ["small", "base", "large", "giant"])
def test_registers_add_four_tokens(size: str) -> None:
    with torch.device("meta"):
        plain, registers = (build(config_of(f"vit_{size}_patch14_{kind}dinov2")) for kind in ("", "reg4_"))
    extra = sum(p.numel() for p in registers.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == 4 * plain.num_features
