"""From the disk to the model's input: 8 bits on the way, and the same bits at the end as the contract gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.data.finished import CPU
from vitrail.contracts import Batch, VitrailError
from vitrail.data import Augment, Finish, Loader, Mixing, Pixels, Preprocess, TrainTransform
from vitrail.data.finish import Mix, Noise, collate, stack_pixels
from vitrail.data.sources import FileSource

HALF = Preprocess((8, 8), 1.0, mean=(0.5,) * 3, std=(0.25,) * 3)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def photo(height: int, width: int, seed: int) -> Image.Image:
    small = Image.fromarray(noise(9, 11, 3, seed=seed).numpy())
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Colour and grey, JPEG of every subsampling and PNG, of sizes odd and not square."""
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for number, (height, width) in enumerate([(97, 131), (200, 60), (33, 33), (64, 48), (300, 301), (50, 70)]):
        picture = photo(height, width, number)
        if number == 3:
            picture = picture.convert("L")
        paths.append(folder / f"{number}.{'png' if number == 5 else 'jpg'}")
        options = {} if number == 5 else {"subsampling": number % 3, "quality": 80 + number}
        picture.save(paths[-1], **options)
    return paths


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "nearest"])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_loader_ends_with_the_bits_of_the_contract(files, workers, resize, interpolation) -> None:
    preprocess = Preprocess((40, 56), 1.0 if resize == "longest" else 0.9, resize, interpolation)
    loader = Loader(
        FileSource(files), TrainTransform(preprocess), batch_size=6, shuffle=False, workers=workers, cache=workers == 1
    )
    for _ in range(2):  # Into the cache, and out of it.
        (batch,) = loader.epoch(0)
        assert batch.images.dtype == torch.uint8
        finished = batch.to(CPU)
        expected = preprocess.batch([Image.open(path) for path in files])
        assert finished.images.dtype == torch.float32 and torch.equal(finished.images, expected)
        assert not finished.finish and finished.to(CPU).images is finished.images
    loader.close()


def test_pictures_of_any_memory_layout_give_the_same_bits() -> None:
    preprocess = Preprocess((40, 24))
    pixels = noise(3, 97, 131)
    last = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    wide = noise(3, 97, 200)
    wide[:, :, 11:142] = pixels
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    for other in (last, wide[:, :, 11:142], picture):
        assert torch.equal(preprocess(other), preprocess(pixels))


def test_erased_boxes_are_the_same_noise_whatever_the_batch() -> None:
    box = Noise(2, 1, 3, 5, seed=7)
    plain, erased = Pixels(noise(3, 8, 8), HALF), Pixels(noise(3, 8, 8), HALF, noise=box)
    alone = erased.finished()
    values, finish = stack_pixels([plain, erased, plain])
    images = finish(values)
    assert torch.equal(images[1], alone) and torch.equal(images[0], plain.finished())
    different = (alone != plain.finished()).any(0)
    assert different[2:5, 1:6].all() and int(different.sum()) == 15
    assert 0.6 < float(alone[:, 2:5, 1:6].std()) < 1.4
    other = Pixels(noise(3, 8, 8), HALF, noise=box._replace(seed=8)).finished()
    assert not torch.equal(other, alone)


def test_what_is_beyond_a_picture_is_zero() -> None:
    values, finish = stack_pixels([Pixels(noise(3, 8, 8), HALF, inside=(5, 8)), Pixels(noise(3, 8, 8), HALF)])
    images = finish(values)
    assert not images[0, :, 5:].any() and images[0, :, :5].all() and images[1].all()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_unfinished_pictures_is_mixing_finished_ones(kind: str) -> None:
    mixing = Mixing(4, mixup=0.8 if kind == "mixup" else 0.0, cutmix=0.0 if kind == "mixup" else 1.0)
    for seed in range(5):
        values, finish = stack_pixels([Pixels(noise(3, 8, 8, seed=i), HALF) for i in range(4)])
        pixels = Batch(values, torch.arange(4), torch.arange(4), tuple("abcd"), finish={"images": finish})
        ready = pixels.to(CPU)
        untouched = ready.images.clone()
        torch.manual_seed(seed)
        late = mixing(pixels)
        torch.manual_seed(seed)
        early = mixing(ready)
        assert late.images is values and torch.equal(ready.images, untouched)
        assert torch.equal(late.to(CPU).images, early.images) and torch.equal(late.labels, early.labels)
        # And as torchvision mixes them.
        torch.manual_seed(seed)
        torch.rand(2)
        theirs = (v2.MixUp(alpha=0.8, num_classes=4) if kind == "mixup" else v2.CutMix(num_classes=4))(
            ready.images, mixing.soften(ready.labels)
        )
        assert torch.equal(early.images, theirs[0]) and torch.equal(early.labels, theirs[1])


def test_mixup_leaves_shares_of_both() -> None:
    images = torch.arange(3.0)[:, None, None, None].expand(3, 1, 2, 2).clone()
    assert Mix(0.75)(images)[:, 0, 0, 0].tolist() == [0.5, 0.75, 1.75]


def test_samples_that_do_not_belong_together_are_refused() -> None:
    other = Preprocess((8, 8), 1.0)
    with pytest.raises(VitrailError, match="different ways"):
        collate([{"images": Pixels(noise(3, 8, 8), HALF)}, {"images": Pixels(noise(3, 8, 8), other)}])


def test_a_clip_s_bands_are_not_its_frames() -> None:
    preprocess = Preprocess((8, 8), 1.0)
    frames = noise(5, 3, 8, 8)
    clip = Pixels(frames.transpose(0, 1), preprocess, axis=-4).finished()
    assert torch.equal(clip[:, 2], preprocess(frames[2]))


def test_resuming_within_an_epoch_gives_the_same_finished_bits(files) -> None:
    loader = Loader(
        FileSource(files),
        TrainTransform(HALF, Augment(erasing=1.0)),
        batch_size=2,
        seed=5,
        mixing=None,
        drop_last=False,
    )
    whole = [batch.to(CPU).images for batch in loader.epoch(3)]
    rest = [batch.to(CPU).images for batch in loader.epoch(3, 1)]
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[1:], strict=True)) and len(rest) == 2


def test_a_batch_weighs_a_quarter_on_its_way(files) -> None:
    loader = Loader(FileSource(files), TrainTransform(HALF), batch_size=6, shuffle=False)
    (batch,) = loader.epoch(0)
    assert 4 * batch.images.nbytes == batch.to(CPU).images.nbytes
    assert isinstance(batch.finish["images"], Finish)
    assert np.allclose(batch.to(CPU).images, (batch.images / 255 - 0.5) / 0.25)
