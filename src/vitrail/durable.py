"""Files that are either wholly there or not there at all, whatever happens to the process or the disk."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import mkdtemp

from safetensors import SafetensorError

from vitrail.contracts import VitrailError

_TEMPORARY = ".vitrail-partial"


def write_durably(path: Path, write: Callable[[Path], object], before_rename: Callable[[], None] | None = None) -> None:
    """Let ``write`` fill a temporary file beside ``path``, force it to the disk, then rename it to ``path``.

    Args:
        path: the file to appear, replacing one of that name.
        write: writes the whole content to the path it is given.
        before_rename: called once the new content is safe on the disk and before it takes its name.

    Raises:
        VitrailError: the disk is full, the folder is read-only …; ``path`` is then as it was before.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{_TEMPORARY}")
    try:
        write(temporary)
        sync(temporary)
        if before_rename is not None:
            before_rename()
        temporary.replace(path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise VitrailError(
            f"cannot write {path}: {error}. Make room on the disk or the folder writable, then run the same command "
            "again; the earlier file is untouched"
        ) from error
    finally:
        remove_quietly(temporary)


def write_result(path: Path, write: Callable[[Path], object]) -> None:
    """As :func:`write_durably`, at a path of the user's choice.

    Its folder is made when missing; a pipe or a terminal, which has no content to lose, is written to as it is.
    """

    def with_folder(temporary: Path) -> None:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)

    # /dev/stdout may lead to a file, but is none to be replaced.
    if path.is_char_device() or path.is_fifo() or path.parent in (Path("/dev"), Path("/dev/fd")):
        try:
            write(path)
        except OSError as error:
            raise VitrailError(f"cannot write {path}: {error}") from error
    else:
        write_durably(path, with_folder)


def write_json(path: Path, content: object) -> None:
    """As :func:`write_result`: anything that JSON can hold, for people to read too."""
    text = json.dumps(content, indent=2) + "\n"
    write_result(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def clean_partial(folder: Path) -> list[str]:
    """Remove what killed processes left half-written in ``folder``; returns the names."""
    return _sweep(folder, "")


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target`` for what shall become it; gone at the end, if it has not taken that name.

    What killed processes left of theirs for the same target is removed.

    Raises:
        OSError: it cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent, f".{escape(target.name)}.")
    folder = Path(mkdtemp(prefix=f".{target.name}.{os.getpid()}-", suffix=_TEMPORARY, dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(folder: Path, beginning: str) -> list[str]:
    stray = sorted(path for path in folder.glob(f"{beginning}*{_TEMPORARY}") if not _is_in_work(path))
    for path in stray:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            remove_quietly(path)
    return [path.name for path in stray]


def _is_in_work(temporary: Path) -> bool:
    number = temporary.name.removesuffix(_TEMPORARY).rpartition(".")[2].partition("-")[0]
    # One of this process's own number is of another that had the number before, as happens in containers.
    return number.isdecimal() and int(number) != os.getpid() and is_living(int(number))


def remove_quietly(path: Path) -> None:
    """Remove a file if it is there; that it cannot be removed is no reason to stop."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def prepare_folder(folder: Path) -> None:
    """Create ``folder`` and prove that it can be written to.

    Raises:
        VitrailError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VitrailError(f"cannot create the output folder {folder}: {error}. Choose another") from error
    probe = folder / ".vitrail-writable"
    write_durably(probe, lambda path: path.touch())
    remove_quietly(probe)


def is_living(process: int) -> bool:
    """Whether there is a process of this number here; on Windows, which has no harmless way to ask, always False."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk.

    Windows is left to do so by itself: it takes neither folders nor files that are open for reading.

    Raises:
        OSError: as of any file.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
