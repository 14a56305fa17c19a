"""Data sets: what they hold, how they are split, and every mistake in labels named."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.planted import GREEN, RED, PlantedSource, write_picture
from vitrail.contracts import VitrailError
from vitrail.data import (
    CsvSource,
    DigitsSource,
    ElpvSource,
    FileSource,
    FolderSource,
    HubSource,
    IdxSource,
    SubsetSource,
    list_pictures,
    open_data,
    split_source,
    to_pixels,
)
from vitrail.data.sources.base import PackedNames


def colour(source, index: int) -> tuple[int, ...]:
    return source.picture(index).getpixel((0, 0))


# --- folders


def test_folder(class_folder):
    write_picture(class_folder / "apple" / "deep" / "er.png", RED)
    write_picture(class_folder / ".thumbnails" / "x.png")
    write_picture(class_folder / "apple" / ".hidden.png")
    (class_folder / "apple" / "notes.txt").write_text("no picture")
    (class_folder / "README.txt").write_text("no picture either")
    source = FolderSource(class_folder)
    assert source.classes == ("apple", "pear")
    assert source.labels.dtype == np.int64 and source.labels.tolist() == [0] * 5 + [1] * 4
    assert [Path(source.name(i)).relative_to(class_folder).as_posix() for i in (0, 4, 8)] == [
        "apple/0.png",
        "apple/deep/er.png",
        "pear/3.png",
    ]
    assert colour(source, 0) == RED and colour(source, 8) == GREEN and source.label(8) == 1
    assert source.describe() == {"kind": "folder", "root": str(class_folder), "length": 9}
    assert FolderSource(class_folder, channels=1).picture(0).mode == "L"


def test_folder_mistakes(class_folder, tmp_path):
    (class_folder / "empty").mkdir()
    with pytest.raises(VitrailError, match=r"Class 'empty' is empty: .*no pictures there"):
        FolderSource(class_folder)
    (class_folder / "empty").rmdir()
    write_picture(class_folder / "stray.jpg")
    with pytest.raises(VitrailError, match=r"1 pictures lie beside the class folders \(e\.g\. .*stray\.jpg"):
        FolderSource(class_folder)
    with pytest.raises(VitrailError, match="missing: no such folder"):
        FolderSource(tmp_path / "missing")
    write_picture(tmp_path / "flat" / "a.png")
    with pytest.raises(VitrailError, match="no class folders there"):
        FolderSource(tmp_path / "flat")


def test_folder_with_odd_names_and_links(tmp_path):
    for name in ("été", "zwei\nzeilen"):
        write_picture(tmp_path / name / "写真.png")
    (tmp_path / "été" / "loop").symlink_to(tmp_path, target_is_directory=True)
    source = FolderSource(tmp_path)
    assert source.classes == ("zwei\nzeilen", "été")
    assert colour(source, 0) == RED
    # The loop brings nothing of the other class in.
    assert [source.name(index) for index in range(len(source))] == [
        str(tmp_path / name / "写真.png") for name in source.classes
    ]


def test_files_without_labels(class_folder):
    source = FileSource(list_pictures(class_folder), root="here")
    assert len(source) == 8 and source.classes == () and source.label(0) is None
    assert set(source.labels.tolist()) == {-1} and source.describe()["root"] == "here"
    with pytest.raises(VitrailError, match="no pictures"):
        FileSource([])


# --- CSV


def write_csv(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_csv(class_folder):
    absolute = class_folder / "pear" / "1.png"
    rows = f"1,apple/0.png,ripe\n2,{absolute}, raw \n\n3,apple/1.png,raw\n"
    path = write_csv(class_folder, "\ufeffid, Image ,label\n" + rows)
    source = CsvSource(path)
    assert source.classes == ("raw", "ripe") and source.labels.tolist() == [1, 0, 0]
    assert colour(source, 1) == GREEN and source.name(2) == str(class_folder / "apple" / "1.png")
    assert not source.has_split
    assert CsvSource(path, labelled=False).classes == ()


def test_csv_numbers_are_sorted_as_numbers(class_folder):
    rows = "".join(f"apple/{n}.png,{label}\n" for n, label in enumerate((10, 9, -1, 2)))
    assert CsvSource(write_csv(class_folder, "image,label\n" + rows)).classes == ("-1", "2", "9", "10")


def test_csv_with_split(class_folder):
    rows = ["apple/0.png,a,train", "pear/0.png,p,Train", "apple/1.png,a,valid", "pear/1.png,p,test"]
    path = write_csv(class_folder, "image,label,split\n" + "\n".join(rows))
    train, val = open_data(path)
    assert [Path(train.name(i)).name for i in range(2)] == ["0.png", "0.png"]
    assert val.labels.tolist() == [0, 1] and train.classes == val.classes == ("a", "p")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column image and label"),
        ("file,label\n", "lacks the column image; it has: file, label"),
        ("image,label\n", "lists no pictures"),
        ("image,label\n,a\n", "line 2: the image cell is empty"),
        ("image,label\napple/0.png,a\napple/1.png,\n", r"line 3: apple/1\.png has no label"),
        ("image,label\napple/0.png\n", r"line 2: apple/0\.png has no label"),
        (
            "image,label\napple/0.png,a\ngone.png,a\nlost/x.png,b\n",
            r"2 of 3 pictures do not exist: line 3: .*/gone\.png; line 4: .*/lost/x\.png",
        ),
        ("image,label\napple/0.png,a\napple/../apple/0.png,b\n", r"lines 2 and 3 list .* with two labels"),
        ("image,label,split\napple/0.png,a,train\napple/0.png,a,val\n", "in both splits"),
        ("image,label,split\napple/0.png,a,dev\n", "line 2: split is 'dev'; known are train"),
        ('image,label\n"apple/0.png,a\n', "not a proper CSV file"),
    ],
)
def test_csv_mistakes(class_folder, text, message):
    with pytest.raises(VitrailError, match=message):
        CsvSource(write_csv(class_folder, text))


def test_csv_with_probabilities(class_folder):
    rows = "apple/0.png,sweet,0.25,train,0.75\napple/1.png,sour,0.9,train,0.1\npear/0.png,sour,0.503,val,0.5\n"
    path = write_csv(class_folder, "image,label, p:sour ,split,P:sweet\n" + rows)
    train, val = open_data(path)
    assert train.classes == ("sour", "sweet")
    assert train.probabilities is not None and val.probabilities is not None
    assert train.probabilities.dtype == np.float32
    # In the order of the classes, whatever that of the columns.
    assert np.allclose(train.probabilities, [[0.25, 0.75], [0.9, 0.1]])
    # Rounded figures are made to add up; the label column stays what is evaluated.
    assert val.probabilities.sum() == pytest.approx(1) and val.labels.tolist() == [0]
    assert CsvSource(path, labelled=False).probabilities is None
    assert CsvSource(write_csv(class_folder, "image,label\napple/0.png,sweet\n")).probabilities is None


@pytest.mark.parametrize(
    ("header", "values", "message"),
    [
        ("p:sour", "1", r"a column p:CLASS for every class .* not so for sweet"),
        ("p:sour,p:sweet,p:bitter", "0.5,0.5,0", "not so for bitter"),
        ("p:sour,p:sweet", "0.5,much", r"line 2: p:sweet is 'much', no number"),
        ("p:sour,p:sweet", "0.5,", r"line 2: p:sweet is '', no number"),
        ("p:sour,p:sweet", "0.5,0.6", r"line 2: the probabilities must be 0 or more and add up to 1"),
        ("p:sour,p:sweet", "-0.5,1.5", r"line 2: the probabilities must be"),
        ("p:sour,p:sweet", "nan,0.5", r"line 2: the probabilities must be"),
    ],
)
def test_csv_probability_mistakes(class_folder, header, values, message):
    path = write_csv(class_folder, f"image,label,{header}\napple/0.png,sweet,{values}\napple/1.png,sour,{values}\n")
    with pytest.raises(VitrailError, match=message):
        CsvSource(path)


def test_csv_that_cannot_be_read(tmp_path):
    with pytest.raises(VitrailError, match=r"labels\.csv: cannot be read: No such file"):
        CsvSource(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_bytes(b"image,label\n\xff\xfe,a\n")
    with pytest.raises(VitrailError, match="is not UTF-8 text"):
        CsvSource(tmp_path / "labels.csv")


def test_csv_names_at_most_ten_missing_files(tmp_path):
    path = write_csv(tmp_path, "image,label\n" + "".join(f"{n}.png,a\n" for n in range(25)))
    with pytest.raises(VitrailError, match=r"25 of 25 pictures .* line 11: .*9\.png; and 15 more"):
        CsvSource(path)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_picture_that_is_listed_several_times_is_on_one_side(class_folder, monkeypatch, labelled, seed):
    # Three rows of each picture: relative, by a detour, and absolute, of a table that is itself named relatively.
    ways = ("{name}", "pear/../{name}", f"{class_folder}/{{name}}")
    names = [f"{kind}/{number}.png" for number in range(4) for kind in ("apple", "pear")]
    rows = [f"{way.format(name=name)},{name.split('/')[0]}" for way in ways for name in names]
    write_csv(class_folder, "image,label\n" + "\n".join(rows))
    monkeypatch.chdir(class_folder)
    train, val = open_data("labels.csv", seed=seed, labelled=labelled)
    learned, held = ({os.path.realpath(part.name(n)) for n in range(len(part))} for part in (train, val))
    assert (len(learned), len(held)) == (6, 2) and not learned & held
    # All rows of a picture go with it, and each class has its share of the pictures.
    assert (len(train), len(val)) == (18, 6)
    assert not labelled or np.bincount(val.labels).tolist() == [3, 3]
    # A part of it knows what it holds several times.
    again = split_source(train, 0.5, seed)
    assert not {os.path.realpath(again.train.name(n)) for n in range(9)} & {
        os.path.realpath(again.val.name(n)) for n in range(9)
    }


def test_a_class_of_one_picture_in_many_rows_cannot_be_split(class_folder):
    rows = ["apple/0.png,a"] * 5 + ["pear/0.png,p", "pear/1.png,p"]
    with pytest.raises(VitrailError, match="class 'a' has a single picture"):
        open_data(write_csv(class_folder, "image,label\n" + "\n".join(rows)))


def test_the_split_of_pictures_that_are_listed_once_is_the_one_it_has_always_been():
    # Figures in the documents were measured on these.
    assert split_source(PlantedSource(20, classes=2), 0.25, 0).val.indices.tolist() == [0, 14, 15, 17, 18]
    assert open_data("digits").val.indices[:8].tolist() == [0, 2, 12, 14, 15, 17, 18, 24]


# --- IDX


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


# --- data sets in packages


def test_digits():
    train, val = open_data("digits")
    assert (len(train), len(val)) == (1348, 449)
    assert train.classes == tuple("0123456789")
    source = DigitsSource()
    assert source.pixels(0).shape == (1, 8, 8) and int(source.data.max()) == 255
    assert torch.equal(source.pixels(7), to_pixels(source.picture(7)))
    # sklearn's level 8 of 16 is the middle.
    assert set(source.data.unique().tolist()) == {(level * 255 + 8) // 16 for level in range(17)}


def test_elpv():
    pytest.importorskip("elpv_dataset")
    train, val = open_data("elpv")
    assert (len(train), len(val)) == (1968, 656)
    source = ElpvSource()
    assert len(source) == 2624 and source.classes == ("functional", "defective")
    assert int(source.labels.sum()) == 821 and np.bincount(val.labels).tolist() == [451, 205]
    assert source.probabilities is not None and source.probabilities.shape == (2624, 2)
    functional, defective = source.probabilities.T
    assert np.array_equal(source.labels, defective > 0.5) and np.allclose(functional + defective, 1)
    assert sorted(set(defective.round(3).tolist())) == pytest.approx([0.0, 0.333, 0.667, 1.0], abs=1e-3)
    # The held-out half keeps its own rows.
    assert isinstance(val, SubsetSource) and val.probabilities is not None
    assert np.array_equal(val.probabilities, source.probabilities[val.indices])
    assert set(source.cell_type) == {"mono", "poly"}
    picture = val.picture(0)
    assert picture.size == (300, 300) and picture.mode == "L" and val.name(0).startswith("images/cell")


# --- the hub's format


@pytest.fixture
def hub_folder(class_folder):
    datasets = pytest.importorskip("datasets")
    paths = [str(path) for path in list_pictures(class_folder)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["apple", "pear"])})
    table = datasets.Dataset.from_dict({"image": paths, "label": [0] * 4 + [1] * 4}, features=features)
    datasets.DatasetDict({"train": table, "test": table.select([0, 7])}).save_to_disk(class_folder.parent / "hub")
    return class_folder.parent / "hub"


def test_hub_folder(hub_folder):
    train, val = open_data(f"hub:{hub_folder}")
    assert (len(train), len(val)) == (8, 2) and val.labels.tolist() == [0, 1]
    assert train.classes == ("apple", "pear") and colour(train, 0) == RED and colour(train, 7) == GREEN
    assert train.name(3) == f"hub:{hub_folder}/train#3"
    assert HubSource(str(hub_folder), "test", labelled=False).classes == ()
    with pytest.raises(VitrailError, match="has no split 'dev'; it has train, test"):
        HubSource(str(hub_folder), "dev")


@pytest.fixture
def unlabelled_hub(class_folder):
    """Saves a data set with these labels, by split; the label column of names, or of plain values."""
    datasets = pytest.importorskip("datasets")
    path = str(class_folder / "apple" / "0.png")

    def save(names: list[str] | None = None, **splits: list) -> str:
        kind = datasets.ClassLabel(names=names) if names else datasets.Value("string")
        features = datasets.Features({"image": datasets.Image(), "label": kind})
        tables = {
            part: datasets.Dataset.from_dict({"image": [path] * len(labels), "label": labels}, features=features)
            for part, labels in splits.items()
        }
        datasets.DatasetDict(tables).save_to_disk(class_folder.parent / "hidden")
        return f"hub:{class_folder.parent / 'hidden'}"

    return save


@pytest.mark.parametrize(
    ("names", "splits", "message"),
    [
        (["a", "b"], {"train": [0, 1, 0, 1], "test": [-1, -1, -1]}, r"3 of 3 rows of the split 'test' .*/test#0\)"),
        (["a", "b"], {"train": [0, 1, None, 1, -1], "val": [0, 1]}, r"2 of 5 rows of the split 'train' .*/train#2\)"),
        # Without a split of its own: also where the only such row would be refused as a class of one picture.
        (["a", "b"], {"train": [0, 1, 0, 1, -1]}, r"1 of 5 rows of the split 'train' .*/train#4\)"),
        (None, {"train": ["x", "y", "x", "y"], "test": [None, None]}, r"2 of 2 rows of the split 'test' .*/test#0\)"),
        (None, {"train": ["x", "", "y", "x", "y"]}, r"1 of 5 rows of the split 'train' .*/train#1\)"),
    ],
)
def test_hub_rows_without_a_label_are_refused_where_labels_are_needed(unlabelled_hub, names, splits, message):
    spec = unlabelled_hub(names, **splits)
    with pytest.raises(VitrailError, match=message + r"\. Save the data set without these rows"):
        open_data(spec)
    train, val = open_data(spec, labelled=False)
    assert train.classes == () and len(train) + len(val) == sum(map(len, splits.values()))


def test_hub_stays_offline(monkeypatch):
    pytest.importorskip("datasets")
    import socket

    calls = []

    def refuse(*args, **kwargs):
        calls.append(args)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = dict(os.environ)
    with pytest.raises(VitrailError, match=r"cannot be loaded \(offline: only local data was looked at"):
        open_data("hub:nobody/nothing")
    assert dict(os.environ) == before and not calls


# --- opening and splitting


def test_train_and_val_folders(class_folder, tmp_path):
    for part, name in (("train", "a"), ("train", "b"), ("valid", "a"), ("valid", "b")):
        write_picture(tmp_path / "split" / part / name / "x.png")
    train, val = open_data(tmp_path / "split")
    assert train.name(0).endswith("train/a/x.png") and val.name(1).endswith("valid/b/x.png")
    write_picture(tmp_path / "split" / "valid" / "c" / "x.png")
    with pytest.raises(VitrailError, match=r"differ .* only in training none, only in validation \['c'\]"):
        open_data(tmp_path / "split")


def test_seeded_stratified_split(class_folder):
    train, val = open_data(class_folder)
    assert (len(train), len(val)) == (6, 2) and sorted(val.labels.tolist()) == [0, 1]
    names = {train.name(i) for i in range(6)} | {val.name(i) for i in range(2)}
    assert names == {str(path) for path in list_pictures(class_folder)}
    again = open_data(str(class_folder))
    assert [again.val.name(i) for i in range(2)] == [val.name(i) for i in range(2)]
    others = {tuple(open_data(class_folder, seed=seed).val.name(i) for i in range(2)) for seed in range(20)}
    assert len(others) > 5
    assert val.describe() == {"kind": "folder", "root": str(class_folder), "length": 2, "part": "val"}


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.9, 0.99])
def test_every_class_is_on_both_sides(fraction):
    source = PlantedSource(count=103, classes=10)
    train, val = split_source(source, fraction, 0)
    assert set(train.labels) == set(val.labels) == set(range(10))
    if 0.1 <= fraction <= 0.9:
        assert len(val) == round(103 * fraction)
    assert sorted([*train.indices, *val.indices]) == list(range(103))


def test_unlabelled_folders(class_folder, tmp_path):
    train, val = open_data(class_folder, labelled=False)
    assert (len(train), len(val)) == (6, 2) and train.classes == ()
    write_picture(tmp_path / "flat" / "a.png")
    write_picture(tmp_path / "flat" / "b.png")
    assert [len(part) for part in open_data(tmp_path / "flat", labelled=False, val_fraction=0.5)] == [1, 1]


def test_opening_mistakes(class_folder, tmp_path):
    with pytest.raises(VitrailError, match=r"cifar: .*not a known name.* Data can be a folder .*; digits; elpv;"):
        open_data("cifar")
    with pytest.raises(VitrailError, match="no such file or folder"):
        open_data(tmp_path / "missing" / "data")
    with pytest.raises(VitrailError, match="val_fraction must lie between 0 and 1, not 1"):
        open_data(class_folder, val_fraction=1.0)
    write_picture(tmp_path / "one" / "only" / "a.png")
    with pytest.raises(VitrailError, match="class 'only' has a single picture"):
        open_data(tmp_path / "one")
    write_picture(tmp_path / "one" / "only" / "b.png")
    with pytest.raises(VitrailError, match=r"only one class \('only'\); telling classes apart needs at least two"):
        open_data(tmp_path / "one")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VitrailError, match="no class folders there"):
        open_data(tmp_path / "empty")
    with pytest.raises(VitrailError, match="no pictures there"):
        open_data(tmp_path / "empty", labelled=False)


def test_validation_class_without_training_pictures(class_folder):
    rows = ["apple/0.png,a,train", "pear/0.png,p,train", "apple/1.png,x,val"]
    path = write_csv(class_folder, "image,label,split\n" + "\n".join(rows))
    with pytest.raises(VitrailError, match="no training picture has the validation's class 'x'"):
        open_data(path)


def test_packed_names():
    names = ["a.png", "", "été/写真.png", "two\nlines", "byte\udcff.png", "x" * 5000]
    packed = PackedNames(names)
    assert len(packed) == 6 and [packed[index] for index in range(6)] == names
    assert [packed[-1], packed[-6]] == [names[-1], names[0]]
    with pytest.raises(IndexError):
        packed[6]


def test_subset():
    source = PlantedSource(20)
    subset = SubsetSource(source, [19, 3, 3])
    assert len(subset) == 3 and subset.name(0) == "picture-19.png" and subset.labels.tolist() == [3, 3, 3]
    assert torch.equal(subset.pixels(1), source.pixels(3))
    with pytest.raises(VitrailError, match="outside 0 … 19"):
        SubsetSource(source, [20])
