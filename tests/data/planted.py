"""Small data sets on disk and their colours, and a source whose reading can be made to fail, to wait or to die."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitrail.data import BrokenPicture, Source

RED, GREEN = (255, 0, 0), (0, 255, 0)


def write_picture(path: Path, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write_csv(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def colour(source: Source, index: int) -> tuple[int, ...]:
    """That of the first pixel."""
    return source.picture(index).getpixel((0, 0))


class PlantedSource(Source):
    """Random pictures of different sizes; ``trouble`` says by index what happens on reading."""

    def __init__(self, count: int = 40, classes: int = 4, trouble: dict[int, str] | None = None) -> None:
        self.classes = tuple(f"class {number}" for number in range(classes))
        self.labels = np.arange(count, dtype=np.int64) % classes if classes else np.full(count, -1)
        self.trouble = trouble or {}
        self.reads = 0
        self.main = os.getpid()

    def name(self, index: int) -> str:
        return f"picture-{index}.png"

    def picture(self, index: int) -> Image.Image:
        self.reads += 1
        what = self.trouble.get(index)
        if what == "broken":
            raise BrokenPicture(self.name(index), "planted")
        if what == "kill" and os.getpid() != self.main:
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "slow":
            time.sleep(60)
        if what == "bug":
            raise ZeroDivisionError("a bug in the source")
        rng = np.random.default_rng(index)
        height, width = rng.integers(8, 20, 2)
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    def describe(self) -> dict[str, Any]:
        return {"kind": "planted", "length": len(self)}
