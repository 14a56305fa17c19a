"""Files by name: what cannot be read says why, and what lies below a folder is found in one order."""

import os
import pickle
from pathlib import Path

import pytest

from tests.data.planted import RED, write_picture
from vitrail.contracts import VitrailError
from vitrail.data import BrokenPicture, list_pictures, printable, read_picture


def test_missing_folder_pipe_and_links(tmp_path):
    with pytest.raises(BrokenPicture, match="no such file"):
        read_picture(tmp_path / "gone.png")
    with pytest.raises(BrokenPicture, match="is a folder"):
        read_picture(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BrokenPicture, match="not a regular file"):
        read_picture(tmp_path / "pipe.png")
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(BrokenPicture, match=r"a\.png: cannot be read: Too many levels of symbolic links"):
        read_picture(tmp_path / "a.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(BrokenPicture, match="symbolic link to nothing"):
        read_picture(tmp_path / "dangling.png")
    with pytest.raises(BrokenPicture, match="not a possible file name"):
        read_picture("nul\0byte.png")


def test_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    write_picture(path)

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BrokenPicture, match="cannot be read: Permission denied"):
        read_picture(path)


@pytest.mark.parametrize(
    "name", ["été 写真 🌄.png", "two\nlines.png", "tab\t.png", "-dash.png", "*.png", "byte\udcff.png"]
)
def test_any_name_is_read_and_shown_on_one_line(tmp_path, name):
    path = tmp_path / name
    write_picture(path)
    assert read_picture(path).getpixel((0, 0)) == RED
    assert list_pictures(tmp_path) == [path] == list_pictures(path)
    path.write_bytes(b"")
    with pytest.raises(BrokenPicture) as caught:
        read_picture(path)
    assert len(str(caught.value).splitlines()) == 1
    str(caught.value).encode()
    assert printable("a\nb\udcffé") == printable(Path("a\nb\udcffé")) == "a\\nb\\udcffé"


def test_broken_picture_survives_pickling():
    error = pickle.loads(pickle.dumps(BrokenPicture("a.png", "is empty")))
    assert (error.name, error.reason, str(error)) == ("a.png", "is empty", "a.png: is empty")


def test_listing_is_sorted_recursive_and_survives_loops(tmp_path):
    for name in ("b/2.PNG", "b/1.jpeg", "a.jpg", "c/d/e.tiff", ".hidden/x.png", "b/.x.png", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "c" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "b", target_is_directory=True)
    found = [path.relative_to(tmp_path).as_posix() for path in list_pictures(tmp_path)]
    assert found == ["a.jpg", "b/1.jpeg", "b/2.PNG", "c/d/e.tiff", "self.png"]
    assert [path.name for path in list_pictures(str(tmp_path / "b" / "*"))] == ["1.jpeg", "2.PNG"]
    assert [path.name for path in list_pictures(str(tmp_path / "**" / "e.*"))] == ["e.tiff"]
    assert list_pictures(tmp_path / "b" / "notes.txt") == [tmp_path / "b" / "notes.txt"]


def test_listing_nothing_is_an_error(tmp_path):
    with pytest.raises(VitrailError, match=r"no pictures there \(endings looked for: \.avif"):
        list_pictures(tmp_path)
    with pytest.raises(VitrailError, match="no such file or folder"):
        list_pictures(tmp_path / "missing")
    with pytest.raises(VitrailError, match="no pictures there"):
        list_pictures(str(tmp_path / "*.jpg"))
