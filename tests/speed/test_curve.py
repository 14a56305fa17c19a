from __future__ import annotations

import pytest

from vitrail.contracts import VitrailError
from vitrail.models import config_of
from vitrail.speed import curve

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}


def test_global_attention_grows_with_the_square_of_the_pixels() -> None:
    small, large = curve("tiny", config_of("vit_tiny_patch16_224", TINY), (1024, 2048)).points
    assert 12 < large.macs / small.macs < 16
    assert 13 < (large.plain - large.fused) / (small.plain - small.fused) < 17
    assert large.fused < 5 * small.fused


def test_sizes_that_the_model_refuses_are_left_out_unless_all_are() -> None:
    config = config_of("vit_tiny_patch16_224", TINY)
    assert [point.side for point in curve("tiny", config, (30, 32)).points] == [32]
    with pytest.raises(VitrailError, match=r"none of the sizes 30, 31.*multiple"):
        curve("tiny", config, (30, 31))
