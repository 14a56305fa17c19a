"""From a JPEG file to the model's input, on one core: ours beside Pillow with torchvision's first transforms.

Run: python benchmarks/input.py [--rounds 9] [--quality 90]

Photographs of 500×375 (samples that scikit-image and scikit-learn bring along), the training crop to 224 with a flip,
bicubic as models are trained with it, and bilinear, torchvision's default. Ours includes its share of stacking the
batch and of normalising it in the device step; theirs ends with the normalised sample and its share of stacking.
RandAugment is left out of both. At the end, evaluation through the loader is held against the contract, bit by bit.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import PIL
import torch
import torchvision
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage import data as samples
from sklearn.datasets import load_sample_images
from timing import interleaved
from torchvision import transforms as v1

from vitrail.data import Augment, FileSource, Loader, Preprocess, TrainTransform, read_pixels
from vitrail.data.finish import collate
from vitrail.data.preprocess import Interpolation
from vitrail.speed.malloc import keep_freed_memory

BATCH = 32
CPU = torch.device("cpu")


def photographs(folder: Path, quality: int) -> list[Path]:
    """Real photographs as files of one size."""
    pictures = [
        samples.astronaut(),
        samples.chelsea(),
        samples.coffee(),
        samples.rocket(),
        *load_sample_images().images,
    ]
    paths = []
    for number, pixels in enumerate(pictures):
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(paths[-1], quality=quality)
    return paths


def ours(paths: list[Path], interpolation: Interpolation) -> Callable[[], None]:
    """A batch as a worker makes it and the device step finishes it."""
    transform = TrainTransform(Preprocess(interpolation=interpolation), Augment(randaugment=None, erasing=0.0))

    def run() -> None:
        samples = [{"images": transform(read_pixels(paths[place % len(paths)]))} for place in range(BATCH)]
        tensors, finish = collate(samples)
        finish["images"](tensors["images"])

    return run


def theirs(paths: list[Path], interpolation: Interpolation) -> Callable[[], None]:
    """A batch as the usual training script makes it."""
    kind = v1.InterpolationMode(interpolation)
    preprocess = Preprocess()
    transform = v1.Compose(
        [
            v1.RandomResizedCrop(224, interpolation=kind),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(preprocess.mean, preprocess.std),
        ]
    )

    def run() -> None:
        opened = (Image.open(paths[place % len(paths)]).convert("RGB") for place in range(BATCH))
        torch.stack([torch.as_tensor(transform(picture)) for picture in opened])

    return run


def check_evaluation(paths: list[Path]) -> None:
    """The loader's pixels, finished, are the contract's input for the picture as Pillow reads it."""
    preprocess = Preprocess()
    loader = Loader(FileSource(paths), TrainTransform(preprocess), batch_size=len(paths), shuffle=False)
    (batch,) = loader.epoch(0)
    expected = preprocess.batch([Image.open(path) for path in paths])
    assert torch.equal(batch.to(CPU).images, expected), "evaluation differs from the contract"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quality", type=int, default=90, help="of the JPEG files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # As the command line does, here for both.
    table = Table("training crop", "Pillow + torchvision v1, pictures/s", "vitrail, pictures/s", "ratio")
    with TemporaryDirectory() as name:
        paths = photographs(Path(name), options.quality)
        for interpolation in ("bicubic", "bilinear"):
            runs = {"theirs": theirs(paths, interpolation), "ours": ours(paths, interpolation)}
            seconds = interleaved(runs, options.rounds)
            rates = [f"{BATCH / seconds[side]:.0f}" for side in ("theirs", "ours")]
            table.add_row(interpolation, *rates, f"{seconds['theirs'] / seconds['ours']:.2f}x")
        check_evaluation(paths)
        weight = sum(path.stat().st_size for path in paths) / len(paths) / 1024
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}"
    what = f"JPEG of 500×375, quality {options.quality}, {weight:.0f} KiB, one core"
    Console().print(table, what, "evaluation is bit-equal to the contract", versions, platform.platform(), sep="\n")


if __name__ == "__main__":
    main()
