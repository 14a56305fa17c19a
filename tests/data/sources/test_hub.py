"""The hub's format, from disk, and nothing from the network unasked."""

import os

import pytest

from tests.data.planted import GREEN, RED, colour
from vitrail.contracts import VitrailError
from vitrail.data import HubSource, list_pictures, open_data


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
