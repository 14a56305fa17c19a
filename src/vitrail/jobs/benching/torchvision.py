"""Pillow and the first version of torchvision's transforms: how training crops are usually made."""

from __future__ import annotations

import itertools

import PIL
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision import transforms

from vitrail.data import IMAGENET_MEAN, IMAGENET_STD, list_pictures
from vitrail.jobs.benching.case import Case
from vitrail.speed.bench.work import Work

VERSIONS = {"torchvision": torchvision.__version__, "pillow": PIL.__version__}


def reading(case: Case) -> Work:
    """The training transform of torchvision's and timm's recipes, without RandAugment and erasing."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(case.img_size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    files = itertools.cycle(list_pictures(case.folder))

    def run() -> Tensor:
        pictures = []
        for file in itertools.islice(files, case.batch_size):
            with Image.open(file) as picture:
                pictures.append(transform(picture.convert("RGB")))
        return torch.stack(pictures)

    return Work(run, case.batch_size, None, lambda: "bicubic", VERSIONS)
