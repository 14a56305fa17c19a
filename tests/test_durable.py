"""Files that are wholly there or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vitrail.contracts import VitrailError
from vitrail.durable import clean_partial, is_living, scratch_folder, write_durably, write_json, write_result


def test_a_full_disk_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    def half(path: Path) -> None:
        path.write_text("ha")
        raise OSError(28, "No space left on device")

    file = tmp_path / "new" / "file"
    for write in (write_result, write_durably):
        write(file, lambda path: path.write_text("whole"))
        with pytest.raises(VitrailError, match=rf"cannot write {file}: .*No space left"):
            write(file, half)
        assert [path.name for path in file.parent.iterdir()] == ["file"] and file.read_text() == "whole"


def test_threads_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def write(path: Path) -> None:
        path.write_text("whole")
        both.wait(10)

    other = threading.Thread(target=write_durably, args=(tmp_path / "file", write))
    other.start()
    write_durably(tmp_path / "file", write)
    other.join()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="no file is swept there that is open")
def test_only_what_dead_processes_left_is_swept(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        half = tmp_path / f"model.{process.pid}-7.vitrail-partial"
        half.touch()
        own = tmp_path / f"model.{os.getpid()}-7.vitrail-partial"
        own.touch()
        assert is_living(process.pid)
        assert clean_partial(tmp_path) == [own.name]
        assert half.exists() and not own.exists()
        process.communicate(b"\n")
    assert clean_partial(tmp_path) == [half.name]
    assert not is_living(10**30)


def test_json_to_standard_output_is_written_there(tmp_path: Path) -> None:
    if not Path("/dev/stdout").exists():
        pytest.skip("no /dev/stdout here")
    write_json(tmp_path / "file", {"a": [1]})
    assert json.loads((tmp_path / "file").read_text()) == {"a": [1]}
    write = "write_json(Path('/dev/stdout'), {'a': [1]})"
    code = f"from pathlib import Path; from vitrail.durable import write_json; {write}"
    for out in (subprocess.PIPE, (tmp_path / "out").open("w")):
        done = subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
        assert json.loads(done.stdout or (tmp_path / "out").read_text()) == {"a": [1]}
    assert Path("/dev/stdout").is_symlink()


@pytest.mark.skipif(sys.platform == "win32", reason="dead and living processes are alike there")
def test_scratch_of_dead_processes_goes_with_the_next_of_the_same_target(tmp_path: Path) -> None:
    dead = 2**22 + 1
    strays = [tmp_path / f".{name}.{dead}-x.vitrail-partial" for name in ("m[1]", "other")]
    living = tmp_path / f".m[1].{os.getppid()}-x.vitrail-partial"
    for folder in (*strays, living):
        folder.mkdir()
        (folder / "file").touch()
    with scratch_folder(tmp_path / "m[1]") as scratch:
        assert not list(scratch.iterdir())
        assert not strays[0].exists() and strays[1].exists() and living.exists()
    assert not scratch.exists()
    clean_partial(tmp_path)
    assert list(tmp_path.iterdir()) == [living]
