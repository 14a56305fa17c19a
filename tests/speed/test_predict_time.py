from __future__ import annotations

import pytest

from vitrail.models import config_of
from vitrail.speed import Rates, calibrate, macs, predict_time
from vitrail.speed.cost import Shape
from vitrail.speed.predict_time import inference_operations, training_operations

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
CONFIG = config_of("vit_tiny_patch16_224", TINY)
RATES = Rates(flops=1e12, bytes=2e10)


@pytest.mark.parametrize(
    ("name", "options"), [("vit_tiny_patch16_224", {"pool": "mean"}), ("swin_tiny_patch4_window7_224", {})]
)
def test_the_arithmetic_is_that_of_the_account(name: str, options: dict[str, object]) -> None:
    config = config_of(name, options)
    done = inference_operations(Shape(config, None, 3, "fp32"))
    assert done.flops == pytest.approx(3 * 2 * macs(config), rel=1e-6)


def test_what_the_last_block_leaves_out_is_not_counted() -> None:
    config = config_of("vit_tiny_patch16_224")
    done = inference_operations(Shape(config, None, 1, "fp32"))
    block = 2 * macs(config) / config.depth
    assert 0.7 * block < 2 * macs(config) - done.flops < 0.9 * block


def test_training_is_three_passes_of_arithmetic_and_the_optimisers_bytes() -> None:
    forward, step = (work(Shape(CONFIG, None, 4, "fp32")) for work in (inference_operations, training_operations))
    assert 2.6 * forward.flops < step.flops <= 3.0 * forward.flops
    assert step.bytes > 2 * forward.bytes


def test_weights_are_read_once_however_large_the_batch() -> None:
    one, four = (inference_operations(Shape(CONFIG, None, batch, "fp32")) for batch in (1, 4))
    assert four.flops == 4 * one.flops
    assert 1.5 * one.bytes < four.bytes < 4 * one.bytes


def test_more_pictures_larger_pictures_and_slower_machines_take_longer() -> None:
    def seconds(batch: int = 2, side: int = 32, rates: Rates = RATES) -> tuple[float, float]:
        found = predict_time(CONFIG, rates, "tiny", (side, side), batch)
        assert found.inference_rate == pytest.approx(batch / found.inference)
        return found.inference, found.training

    base = seconds()
    assert 0 < base[0] < base[1]
    for other in (
        seconds(batch=4),
        seconds(side=64),
        seconds(rates=Rates(5e11, 2e10)),
        seconds(rates=Rates(1e12, 1e9)),
    ):
        assert other[0] > base[0] and other[1] > base[1]


def test_bf16_moves_fewer_bytes() -> None:
    full, half = (inference_operations(Shape(CONFIG, None, 2, precision)) for precision in ("fp32", "bf16"))
    assert half.flops == full.flops and half.bytes < 0.8 * full.bytes


def test_scores_that_never_reach_memory_cost_no_bytes() -> None:
    written, kept = (inference_operations(Shape(CONFIG, (256, 256), 2, "bf16"), way) for way in ("plain", "fused"))
    assert kept.flops == written.flops and kept.bytes < 0.5 * written.bytes


def test_this_machine_has_rates() -> None:
    rates = calibrate("fp32")
    assert 1e8 < rates.flops < 1e15 and 1e7 < rates.bytes < 1e13
