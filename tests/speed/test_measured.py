"""Predicted memory against the peak of a real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vitrail.models import config_of
from vitrail.speed import inference_memory, training_memory


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize(
    ("name", "batch", "how"),
    [
        ("vit_base_patch16_224", 8, "inference"),
        ("swin_tiny_patch4_window7_224", 8, "inference"),
        ("sam_vit_base_patch16", 1, "inference"),
        ("vit_small_patch16_224", 8, "training"),
    ],
)
def test_memory_is_within_15_percent_of_the_measured_peak(name: str, batch: int, how: str) -> None:
    command = [sys.executable, str(Path(__file__).with_name("measure.py")), name, str(batch), how]
    measured = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    predict = inference_memory if how == "inference" else training_memory
    # The kernel that the machine would choose, as the real run did.
    predicted = predict(config_of(name), None, batch, kernel="auto").total
    assert predicted == pytest.approx(measured, rel=0.15)
