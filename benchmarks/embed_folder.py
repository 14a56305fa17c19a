"""``vitrail embed`` over a folder of JPEGs beside the pure rate of its model, and beside a plain Transformers script.

Run: python benchmarks/embed_folder.py [--pictures 2000] [--workers 0 1 2] [--without-transformers]

DINOv2 ViT-S/14 at 224 with random weights, the same in both; files of 500×375 cut from sample photographs, all of them
different. The pure rate is that of batches which lie in memory ready for the model. The Transformers script is
embed_plain.py: its model and its image processor in a loop, as their documentation shows it.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from embed_plain import embed_plain
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage import data as samples
from sklearn.datasets import load_sample_images

import vitrail
from vitrail.data import FileSource, Preprocess, list_pictures
from vitrail.jobs import EmbedConfig, embed
from vitrail.jobs.embed import FeatureVector
from vitrail.jobs.inference import Hardware, plain_loader
from vitrail.jobs.models import open_model
from vitrail.speed.malloc import keep_freed_memory
from vitrail.weights import Artefact, convert

MODEL = "vit_small_patch14_dinov2"
BATCH = 32


def write_pictures(folder: Path, count: int) -> None:
    """Cuts of photographs as JPEG files of 500×375."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(pixels) for pixels in (samples.coffee(), *load_sample_images().images)]
    for number in range(count):
        picture = photographs[number % len(photographs)]
        left, top = (int(rng.integers(0, side // 4)) for side in picture.size)
        box = (left, top, left + picture.width * 3 // 4, top + picture.height * 3 // 4)
        picture.resize((500, 375), Image.Resampling.BICUBIC, box).save(folder / f"{number:06d}.jpg", quality=90)


def save_model(folder: Path) -> None:
    """One set of random weights in both formats, for 224."""
    torch.manual_seed(0)
    model = vitrail.create_model(MODEL, img_size=224)
    Artefact(model, (), Preprocess(size=(224, 224))).save_pretrained(folder / "vitrail")
    convert(folder / "vitrail", folder / "transformers", to="transformers")


def pure(folder: Path, pictures: Path) -> Callable[[], int]:
    """The model alone, on the first batches of the folder, over and over."""
    config = EmbedConfig(source=str(pictures), model=str(folder / "vitrail"), workers=0)
    artefact, hardware = open_model(config.model), Hardware.of(config)
    call = FeatureVector(artefact.backbone.eval(), config.pool)
    paths = list_pictures(pictures)
    loader = plain_loader(FileSource(paths[: 4 * BATCH]), artefact.preprocess, config, hardware.device)
    ready = [batch.to(hardware.device).images for batch in loader.epoch(0)]

    def run() -> int:
        done = 0
        with torch.inference_mode(), hardware.precision.autocast(hardware.device):
            while done < len(paths):
                images = ready[done // BATCH % len(ready)][: len(paths) - done]
                call(images)
                done += len(images)
        return done

    return run


def ours(folder: Path, pictures: Path, workers: int) -> Callable[[], int]:
    """The verb as it is used, opening the model and writing the table included."""
    config = EmbedConfig(
        source=str(pictures), model=str(folder / "vitrail"), workers=workers, out=folder / f"{workers}.parquet"
    )
    return lambda: len(embed(config))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--without-transformers", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    table = Table("who", "seconds", "pictures/s", "of the pure rate")
    with TemporaryDirectory() as name:
        folder, pictures = Path(name), Path(name) / "pictures"
        pictures.mkdir()
        write_pictures(pictures, options.pictures)
        save_model(folder)
        runs = {"the model alone": pure(folder, pictures)}
        runs |= {f"vitrail embed --workers {count}": ours(folder, pictures, count) for count in options.workers}
        if not options.without_transformers:
            runs["a Transformers script"] = lambda: embed_plain(folder / "transformers", pictures, BATCH)
        rate = 0.0
        for who, run in runs.items():
            if not rate:
                run()
            started = time.perf_counter()
            found = run()
            seconds = time.perf_counter() - started
            rate = rate or found / seconds
            table.add_row(who, f"{seconds:.1f}", f"{found / seconds:.1f}", f"{100 * found / seconds / rate:.0f} %")
    Console().print(table, f"{options.pictures} files, {torch.get_num_threads()} threads, {platform.platform()}")


if __name__ == "__main__":
    main()
