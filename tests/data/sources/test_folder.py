"""Folders of pictures: one class each, or none; what does not belong there is named."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.planted import GREEN, RED, colour, write_picture
from vitrail.contracts import VitrailError
from vitrail.data import FileSource, FolderSource, list_pictures


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
