"""What is built on the user's machine: once, whole or not at all, and never missed."""

from __future__ import annotations

import ctypes
import shutil
import stat
from pathlib import Path

import pytest

from vitrail import building
from vitrail.building import Unavailable, built

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(building, "user_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    file = tmp_path / "answer.cpp"
    file.write_text('extern "C" int answer() { return ANSWER; }\n')
    return file


def test_once_for_each_version_of_the_code(cache: Path, code: Path) -> None:
    library = built("answer", [code], ["-DANSWER=42"])
    assert ctypes.CDLL(str(library)).answer() == 42 and list(cache.iterdir()) == [library]
    made = library.stat()
    assert built("answer", [code], ["-DANSWER=42"]) == library and library.stat().st_mtime_ns == made.st_mtime_ns
    other = built("answer", [code], ["-DANSWER=7"])
    code.write_text(code.read_text() + "// a word more\n")
    assert len({library, other, built("answer", [code], ["-DANSWER=7"])}) == 3 == len(list(cache.iterdir()))


def test_without_a_compiler(cache: Path, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(Unavailable, match=r"there is no g\+\+"):
        built("answer", [code], ["-DANSWER=42"])


def test_a_compiler_that_fails_leaves_nothing(cache: Path, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = code.with_name("g++")
    compiler.write_text("#!/bin/sh\nexit 3\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{code.parent}:/usr/bin:/bin")
    with pytest.raises(Unavailable, match=r"g\+\+ did not build them"):
        built("answer", [code], ["-DANSWER=42"])
    assert not list(cache.iterdir())


def test_a_library_that_is_not_there(cache: Path, code: Path) -> None:
    with pytest.raises(Unavailable, match=r"g\+\+ did not build them"):
        built("answer", [code], ["-DANSWER=42"], ["-lthere_is_no_such_library"])
    assert not list(cache.iterdir())


def test_nothing_is_loaded_from_a_cache_that_is_refused(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Path:
        raise PermissionError("it is somebody else's")

    monkeypatch.setattr(building, "user_cache", refused)
    with pytest.raises(Unavailable, match=r"cannot be kept .*somebody else's"):
        built("answer", [code], ["-DANSWER=42"])


def test_a_cache_that_may_not_be_looked_into(cache: Path, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", refused)
    with pytest.raises(Unavailable, match=r"cannot be kept .*Permission denied"):
        built("answer", [code], ["-DANSWER=42"])


def test_a_folder_that_cannot_be_written_to(cache: Path, code: Path) -> None:
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match=r"g\+\+ did not build them"):
        built("answer", [code], ["-DANSWER=42"])
