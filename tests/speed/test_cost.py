from __future__ import annotations

import pytest
import torch

from tests.models import tiny_sam
from vitrail.contracts import VitrailError
from vitrail.models import build, config_of
from vitrail.speed import cost, inference_memory, macs, training_memory
from vitrail.speed.parts import part_names

GMACS = {
    "vit_tiny_patch16_224": 1.26,
    "vit_small_patch16_224": 4.61,
    "vit_base_patch16_224": 17.58,
    "vit_base_patch16_384": 55.54,
    "vit_large_patch16_224": 61.60,
    "vit_huge_patch14_224": 167.40,
    "deit_small_patch16_224": 4.61,
    "deit_small_distilled_patch16_224": 4.63,
    "deit_base_distilled_patch16_224": 17.68,
    "vit_small_patch14_dinov2": 46.76,
    "vit_base_patch14_dinov2": 151.71,
    "vit_large_patch14_dinov2": 507.15,
    "vit_giant_patch14_dinov2": 1784.2,
    "resnet50": 4.09,
    "convnext_tiny": 4.46,
    "swin_tiny_patch4_window7_224": 4.51,
    "swin_large_patch4_window7_224": 34.53,
    "beit_base_patch16_224": 17.58,
    "dit_xlarge_patch2_256": 118.62,
    "videomae_base_patch16_224": 180.3,
    "samvit_base_patch16": 486,
    "samvit_large_patch16": 1494,
    "samvit_huge_patch16": 2982,
}
"""As timm states them, those of convolutional models as torchvision does."""

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}


@pytest.mark.parametrize(("name", "gmacs"), GMACS.items())
def test_multiply_adds_of_published_sizes(name: str, gmacs: float) -> None:
    assert macs(config_of(name)) / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_multiply_adds_are_counted_to_the_last_one() -> None:
    """17 tokens of width 16: every product of the architecture written out."""
    dim, patches, hidden = 16, 16, 64
    tokens = patches + 1
    block = tokens * dim * (3 * dim + dim + 2 * hidden) + 2 * tokens * tokens * dim
    assert macs(config_of("vit_tiny_patch16_224", TINY)) == patches * 3 * 64 * dim + 2 * block + dim * 5


def test_parts_add_up_and_are_named_by_what_they_do() -> None:
    config = config_of("vit_tiny_patch16_224", TINY)
    account = cost(config, "tiny", batch=3)
    assert account.macs == sum(part.macs for part in account.parts) == macs(config)
    assert account.parameters == sum(p.numel() for p in build(config).parameters())
    by_name = {part.name: part for part in account.parts}
    assert by_name["blocks: MLP"].macs == 2 * 17 * 16 * 128
    assert by_name["blocks: attention"].parameters == 2 * (4 * 16 * 16 + 4 * 16)
    assert {"patch_embed", "blocks: norms and residuals", "norm", "head"} <= by_name.keys()
    assert account.to_dict()["inference"]["total"] == account.inference.total


def test_parts_of_which_only_a_method_is_called_count_once() -> None:
    """SAM asks its encoder for a feature map, not for its answer; the coarse grid has 16 places of 16 channels."""
    config = config_of("sam_vit_base_patch16", tiny_sam.TINY["sam_vit_base_patch16"])
    encoder = config_of("samvit_base_patch16", tiny_sam.TINY["samvit_base_patch16"])
    account = cost(config)
    alone = sum(part.macs for part in account.parts if part.name.startswith("image_encoder"))
    assert alone == macs(encoder)
    assert macs(encoder) < account.macs < 2 * macs(encoder)


def test_the_batch_scales_memory_and_not_arithmetic() -> None:
    config = config_of("vit_tiny_patch16_224", TINY)
    one, four = cost(config, batch=1), cost(config, batch=4)
    assert one.macs == four.macs and one.training.weights == four.training.weights
    assert 3.9 < four.inference.working / one.inference.working <= 4.0


def test_the_matrix_of_attention_weights_is_what_the_fused_kernel_saves() -> None:
    config = config_of("vit_tiny_patch16_224", {**TINY, "img_size": 256})
    matrix = 2 * 1025 * 1025 * 4
    fused, plain = (inference_memory(config, kernel=kernel).working for kernel in ("fused", "plain"))
    assert fused < matrix <= plain - fused < 4 * matrix


def test_training_needs_gradients_moments_and_what_waits_and_checkpointing_waits_less() -> None:
    config = config_of("vit_tiny_patch16_224", {**TINY, "depth": 8})
    account = cost(config, batch=16)
    assert account.training.optimiser == 8 * account.parameters
    assert account.training.weights == 4 * account.parameters
    waiting = sum(part.training_bytes for part in account.parts)
    assert waiting <= account.training.working
    assert account.training_checkpointed.working < 0.5 * account.training.working
    assert account.training.working < account.training_plain.working


def test_bf16_halves_the_weights_in_inference_and_not_in_training() -> None:
    config = config_of("vit_tiny_patch16_224", TINY)
    half, full = (inference_memory(config, precision=precision) for precision in ("bf16", "fp32"))
    assert 2 * half.weights == full.weights and 2 * half.working == full.working
    assert training_memory(config, precision="bf16").weights == full.weights


def test_a_size_that_the_model_refuses_is_refused_here_too() -> None:
    with pytest.raises(VitrailError, match="multiple of the patch size 8"):
        macs(config_of("vit_tiny_patch16_224", TINY), (30, 32))


def test_every_module_belongs_to_a_part_and_nothing_is_left_changed() -> None:
    with torch.device("meta"):
        model = build(config_of("vit_tiny_patch16_224", TINY))
    assert part_names(model).keys() == set(model.modules())
    cost(config_of("vit_tiny_patch16_224", TINY))
    assert torch.zeros(1).item() == 0.0
