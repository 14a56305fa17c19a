"""Small data sets on disk."""

from pathlib import Path

import pytest

from tests.data.planted import GREEN, RED, write_picture


@pytest.fixture
def class_folder(tmp_path) -> Path:
    """Two classes of four pictures each."""
    for number in range(4):
        write_picture(tmp_path / "data" / "apple" / f"{number}.png", RED)
        write_picture(tmp_path / "data" / "pear" / f"{number}.png", GREEN)
    return tmp_path / "data"
