"""From what the user names to a training and a validation source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitrail.contracts import VitrailError
from vitrail.data.files import list_pictures, printable
from vitrail.data.order import split_order
from vitrail.data.sources.base import Source, SubsetSource
from vitrail.data.sources.builtin import DigitsSource, ElpvSource
from vitrail.data.sources.folder import FileSource, FolderSource
from vitrail.data.sources.hub import HubSource, load_splits
from vitrail.data.sources.idx import holds_idx, open_fashion_mnist, open_idx_folder
from vitrail.data.sources.table import CsvSource

KNOWN = (
    "a folder with one sub-folder per class",
    "a folder with train/ and val/",
    "a folder of IDX files",
    "a .csv file with the columns image,label",
    "digits",
    "elpv",
    "fashion-mnist",
    "hub:NAME",
)
"""What :func:`open_data` understands, for messages and help texts."""

_VAL_PARTS = ("val", "valid", "validation", "test")


class Splits(NamedTuple):
    """What is trained on and what is held out."""

    train: Source
    val: Source


def open_data(
    spec: str | os.PathLike[str],
    *,
    val_fraction: float | None = 0.25,
    seed: int = 0,
    online: bool = False,
    labelled: bool = True,
) -> Splits:
    """Open a data set by folder, file or name.

    Args:
        spec: one of :data:`KNOWN`. A path that exists wins over a name.
        val_fraction: the share held out, stratified by class, where the data set brings no split of its own. None: such
            data are not split, and both parts are all of it (pictures to measure on).
        seed: of that split.
        online: whether ``hub:`` may use the network.
        labelled: False for methods that need no labels: classes are ignored, any folder of pictures will do.

    Raises:
        VitrailError: unknown, empty, pictures without the labels that are asked for, fewer than two classes, classes
            that differ between the two parts.
    """
    if val_fraction is not None and not 0.0 < val_fraction < 1.0:
        raise VitrailError(f"val_fraction must lie between 0 and 1, not {val_fraction!r}")
    path, text = Path(spec), os.fspath(spec)
    if path.is_dir():
        splits = _open_folder(path, val_fraction, seed, labelled)
    elif path.suffix.lower() == ".csv":
        splits = _open_csv(path, val_fraction, seed, labelled)
    elif text.startswith("hub:"):
        splits = _open_hub(text.removeprefix("hub:"), val_fraction, seed, online, labelled)
    elif text == "fashion-mnist":
        splits = Splits(*open_fashion_mnist())
    elif text in ("digits", "elpv"):
        splits = _parts(DigitsSource() if text == "digits" else ElpvSource(), val_fraction, seed)
    else:
        missing = "no such file or folder, and not a known name" if path.parent.name else "not a known name or folder"
        raise VitrailError(f"{printable(text)}: {missing}. Data can be {'; '.join(KNOWN)}")
    if labelled:
        _check_classes(text, splits)
    return splits


def split_source(source: Source, val_fraction: float, seed: int) -> Splits:
    """Hold out ``round(n * val_fraction)`` pictures, each class by its share (largest remainders), seeded.

    Every class keeps at least one picture on either side. Unlabelled pictures are split as one class. A picture that
    the source has several times (:attr:`Source.picture_ids`) counts once, and all of it goes to one side.

    Raises:
        VitrailError: a class with a single picture.
    """
    held = np.zeros(len(source), dtype=bool)
    held[_held_out(source, val_fraction, seed)] = True
    return Splits(
        SubsetSource(source, np.flatnonzero(~held), "train"), SubsetSource(source, np.flatnonzero(held), "val")
    )


def _held_out(source: Source, val_fraction: float, seed: int) -> NDArray[np.int64]:
    distinct = _distinct(source)
    labels = source.labels[distinct]
    groups = {label: distinct[labels == label] for label in np.unique(labels).tolist()}
    for label, members in groups.items():
        if len(members) < 2:
            what = f"class {source.classes[label]!r}" if label >= 0 else "the data set"
            raise VitrailError(
                f"{what} has a single picture ({printable(source.name(int(members[0])))}): it cannot be both "
                "trained on and held out; add more, or leave it out"
            )
    exact = {label: len(members) * val_fraction for label, members in groups.items()}
    counts = {label: int(share) for label, share in exact.items()}
    spare = round(len(distinct) * val_fraction) - sum(counts.values())
    for label in sorted(groups, key=lambda label: (counts[label] - exact[label], label))[: max(0, spare)]:
        counts[label] += 1
    picked = [
        split_order(members, seed)[: min(max(counts[label], 1), len(members) - 1)] for label, members in groups.items()
    ]
    return _all_of(source, np.concatenate(picked))


def _distinct(source: Source) -> NDArray[np.int64]:
    """Every picture by one of its indices, the first."""
    if source.picture_ids is None:
        return np.arange(len(source))
    return np.sort(np.unique(source.picture_ids, return_index=True)[1])


def _all_of(source: Source, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """All indices of the pictures that some stand for."""
    if source.picture_ids is None:
        return indices
    return np.flatnonzero(np.isin(source.picture_ids, source.picture_ids[indices]))


def sample_source(source: Source, count: int, seed: int, part: str = "sample") -> Source:
    """A seeded choice of ``count`` pictures in which every class has its share, and one picture at least.

    Args:
        source: where they are chosen from; itself when it has no more.
        count: how many.
        seed: of the choice.
        part: what the choice is called in the configuration.

    Raises:
        VitrailError: fewer pictures than classes.
    """
    if count >= len(source):
        return source
    groups = [np.flatnonzero(source.labels == label) for label in np.unique(source.labels).tolist()]
    if count < len(groups):
        raise VitrailError(f"{count} pictures cannot stand for {len(groups)} classes: choose one of each at least")
    # One of each class, the others by share, what is left over to the largest remainders.
    spare, rest = count - len(groups), len(source) - len(groups)
    exact = np.array([spare * (len(members) - 1) / rest for members in groups])
    counts = exact.astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: spare - counts.sum()]] += 1
    picked = [split_order(members, seed)[: 1 + more] for members, more in zip(groups, counts.tolist(), strict=True)]
    return SubsetSource(source, np.sort(np.concatenate(picked)), part)


def shots_source(source: Source, shots: int, seed: int) -> Source:
    """A seeded choice of ``shots`` pictures of every class (all of a class that has fewer).

    Raises:
        VitrailError: fewer than one.
    """
    if shots < 1:
        raise VitrailError(f"shots must be at least 1 picture of each class, not {shots}")
    labels = [label for label in np.unique(source.labels).tolist() if label >= 0]
    picked = [split_order(np.flatnonzero(source.labels == label), seed)[:shots] for label in labels]
    return SubsetSource(source, np.sort(np.concatenate(picked)), f"{shots}-shot")


def _parts(source: Source, val_fraction: float | None, seed: int) -> Splits:
    """Of data that bring no parts of their own."""
    return Splits(source, source) if val_fraction is None else split_source(source, val_fraction, seed)


def _open_folder(path: Path, val_fraction: float | None, seed: int, labelled: bool) -> Splits:
    if holds_idx(path):
        return Splits(*open_idx_folder(path))
    make = FolderSource if labelled else _unlabelled
    if (parts := part_folders(path)) is not None:
        return Splits(*map(make, parts))
    train = path / "train"
    return _parts(make(train if labelled and train.is_dir() else path), val_fraction, seed)


def part_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of a data set that is split already, or None where there are not both.

    Returns:
        ``train/``, and what is held out: the first there is of ``val/``, ``valid/``, ``validation/`` and ``test/``.
    """
    train, held = root / "train", [root / name for name in _VAL_PARTS if (root / name).is_dir()]
    return (train, held[0]) if held and train.is_dir() else None


def _unlabelled(path: Path) -> FileSource:
    return FileSource(list_pictures(path), root=os.fspath(path))


def _open_csv(path: Path, val_fraction: float | None, seed: int, labelled: bool) -> Splits:
    source = CsvSource(path, labelled=labelled)
    if not source.has_split:
        return _parts(source, val_fraction, seed)
    return Splits(CsvSource(path, "train", labelled=labelled), CsvSource(path, "val", labelled=labelled))


def _open_hub(name: str, val_fraction: float | None, seed: int, online: bool, labelled: bool) -> Splits:
    names = list(load_splits(name, online))
    train = HubSource(name, "train" if "train" in names else names[0], online, labelled)
    _check_labelled(train)
    for part in _VAL_PARTS:
        if part in names and part != train.split:
            val = HubSource(name, part, online, labelled)
            _check_labelled(val)
            return Splits(train, val)
    return _parts(train, val_fraction, seed)


def _check_labelled(source: HubSource) -> None:
    """A label that is looked at must be there: the hub's test splits often come with theirs hidden."""
    unlabelled = np.flatnonzero(source.labels < 0)
    if source.label_column is None or not unlabelled.size:
        return
    first = printable(source.name(int(unlabelled[0])))
    raise VitrailError(
        f"hub:{printable(source.path)}: {unlabelled.size:,} of {len(source):,} rows of the split {source.split!r} have "
        f"no {source.label_column} (-1, nothing or empty; the first: {first}). Save the data set without these rows, "
        "or without this split, by save_to_disk, and give that folder"
    )


def _check_classes(spec: str, splits: Splits) -> None:
    train, val = splits
    if train.classes != val.classes:
        only_train = sorted(set(train.classes) - set(val.classes))
        only_val = sorted(set(val.classes) - set(train.classes))
        raise VitrailError(
            f"{printable(spec)}: the classes differ between training and validation: "
            f"only in training {only_train or 'none'}, only in validation {only_val or 'none'}"
        )
    if len(train.classes) < 2:
        what = f"only one class ({train.classes[0]!r})" if train.classes else "no classes"
        raise VitrailError(f"{printable(spec)}: {what}; telling classes apart needs at least two")
    unseen = sorted(set(np.unique(val.labels).tolist()) - set(np.unique(train.labels).tolist()) - {-1})
    if unseen:
        names = ", ".join(repr(train.classes[label]) for label in unseen)
        raise VitrailError(f"{printable(spec)}: no training picture has the validation's class {names}")
