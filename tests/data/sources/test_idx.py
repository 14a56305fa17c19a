"""IDX files, plain and gzipped; damaged ones are named."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.data import IdxSource, open_data, to_pixels


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()


PICTURES = np.arange(5 * 3 * 4, dtype=np.uint8).reshape(5, 3, 4)
LABELS = np.array([3, 1, 3, 7, 1], dtype=np.uint8)


def write_idx(folder: Path, zipped: bool = False, name: str = "{part}-{what}-idx{rank}-ubyte") -> Path:
    folder.mkdir(exist_ok=True)
    for part in ("train", "t10k"):
        for what, rank, array in (("images", 3, PICTURES), ("labels", 1, LABELS)):
            path = folder / (name.format(part=part, what=what, rank=rank) + ".gz" * zipped)
            path.write_bytes(gzip.compress(idx(array), mtime=0) if zipped else idx(array))
    return folder


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["{part}-{what}-idx{rank}-ubyte", "emnist-x-{part}-{what}.idx{rank}-ubyte"])
def test_idx_folder(tmp_path, zipped, name):
    train, val = open_data(write_idx(tmp_path, zipped, name))
    assert train.classes == val.classes == ("1", "3", "7") and train.labels.tolist() == [1, 0, 1, 2, 0]
    assert np.array_equal(np.asarray(train.picture(2)), PICTURES[2])
    assert torch.equal(train.pixels(2), to_pixels(train.picture(2)))
    assert train.name(2).endswith("#2") and train.name(2) != val.name(2) and train.in_memory


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"", idx(LABELS), "images: is not an IDX file"),
        (b"\x89PNG1234", idx(LABELS), "images: is not an IDX file"),
        (idx(PICTURES)[:10], idx(LABELS), "images: the IDX header is cut off"),
        (idx(PICTURES)[:-1], idx(LABELS), r"images: \(5, 3, 4\) should take 76 bytes, but there are 75"),
        (idx(PICTURES) + b"\0", idx(LABELS), "should take 76 bytes, but there are 77"),
        (gzip.compress(idx(PICTURES), mtime=0)[:-9], idx(LABELS), "images: the gzip file is cut off or damaged"),
        (
            gzip.compress(idx(PICTURES), mtime=0)[:-8] + b"12345678",
            idx(LABELS),
            "images: the gzip file is cut off or damaged",
        ),
        (idx(PICTURES), idx(LABELS[:4]), "holds 5 pictures but .*labels 4 labels"),
        (idx(LABELS), idx(LABELS), r"images: pictures must be \(n, height, width\)"),
        (idx(PICTURES[:0]), idx(LABELS[:0]), r"images: pictures must be \(n, height, width\)"),
        (idx(PICTURES), idx(PICTURES), "labels: labels must be one row"),
    ],
)
def test_idx_mistakes(tmp_path, images, labels, message):
    (tmp_path / "images").write_bytes(images)
    (tmp_path / "labels").write_bytes(labels)
    with pytest.raises(VitrailError, match=message):
        IdxSource(tmp_path / "images", tmp_path / "labels")


def test_idx_labels_need_names(tmp_path):
    folder = write_idx(tmp_path)
    files = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    with pytest.raises(VitrailError, match="label 7 has no name; 7 classes were given"):
        IdxSource(*files, classes=tuple("abcdefg"))
    assert IdxSource(*files, classes=tuple("abcdefgh")).labels.tolist() == LABELS.tolist()
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(VitrailError, match=r"t10k-labels-idx1-ubyte \(or \.gz\) is missing"):
        open_data(folder)


@pytest.mark.skipif(not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="Debian's data set is not installed")
def test_fashion_mnist():
    train, val = open_data("fashion-mnist")
    assert (len(train), len(val)) == (60_000, 10_000)
    assert np.bincount(train.labels).tolist() == [6000] * 10 and train.classes[9] == "Ankle boot"
    assert train.picture(0).size == (28, 28) and train.label(0) == 9
