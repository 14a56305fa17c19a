from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.speed.test_curve import TINY
from vitrail.contracts import VitrailError
from vitrail.models import config_of
from vitrail.speed import curve
from vitrail.speed.curve_figure import draw_curves


def test_the_figure_is_written_or_the_reason_is_given(tmp_path: Path) -> None:
    found = curve("tiny", config_of("vit_tiny_patch16_224", TINY), (32, 64))
    with Image.open(draw_curves([found], tmp_path / "new" / "cost.png")) as picture:
        assert picture.width > 1000
    with pytest.raises(VitrailError, match=r"cost\.xyz"):
        draw_curves([found], tmp_path / "cost.xyz")
