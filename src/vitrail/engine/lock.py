"""One training a folder: who writes checkpoints there holds its lock until it is done, or dead."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from vitrail.contracts import VitrailError
from vitrail.durable import prepare_folder, remove_quietly

from .distributed import World
from .files import LOCK

if sys.platform != "win32":
    import fcntl

_PATIENCE_S = 3.0
# Which process holds which folder, as far as this thread's work stands within it.
_HELD: ContextVar[frozenset[tuple[int, Path]]] = ContextVar("held", default=frozenset())
_DESCRIPTORS: set[int] = set()


@contextmanager
def sole_trainer(folder: Path, world: World) -> Iterator[None]:
    """Nobody else trains in ``folder`` during the block; within it, the same thread may ask again.

    The lock goes with the first process, however it ends. It is no protection on Windows and on disks that know no
    locks.

    Args:
        folder: of the run; made when missing.
        world: the processes that train together; each calls this.

    Raises:
        VitrailError: another process trains there, or the folder cannot be written.
    """
    with ExitStack() as held:
        world.on_main(lambda: held.enter_context(_alone_in(folder)))
        yield


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    prepare_folder(folder)
    mine = (os.getpid(), folder.resolve())
    if sys.platform == "win32" or mine in _HELD.get():
        yield
        return
    with _locked(folder / LOCK):
        token = _HELD.set(_HELD.get() | {mine})
        try:
            yield
        finally:
            _HELD.reset(token)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _take(path)
    _DESCRIPTORS.add(descriptor)
    try:
        yield
    finally:
        # A forked child that comes along here has nothing to give back.
        if descriptor in _DESCRIPTORS:
            _DESCRIPTORS.remove(descriptor)
            # While it is still held: whoever waits for it sees that it is gone, and makes a new one.
            remove_quietly(path)
            os.close(descriptor)


def _take(path: Path) -> int:
    """The lock's file, open and held; a process that was just killed may take a moment to be gone."""
    until = time.monotonic() + _PATIENCE_S
    while (descriptor := _try(path)) is None:
        if time.monotonic() > until:
            raise VitrailError(
                f"another process is training in {path.parent} ({_holder(path)}): wait for its end, or choose another "
                "output folder"
            )
        time.sleep(0.05)
    # For the message of others alone: that it cannot be written is no reason to stop.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
    return descriptor


def _try(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise VitrailError(f"cannot write {path}: {error}. Choose another output folder") from error
    if _hold(descriptor) and _has_its_name(path, descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _hold(descriptor: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A disk that knows no locks must not keep anybody from training on it.
        return True
    return True


def _has_its_name(path: Path, descriptor: int) -> bool:
    """Whether the holder before has not removed the file, in the end, between its opening and its holding here."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") or "it has just begun"
    except OSError:
        return "it is just ending"


def _leave_to_parent() -> None:
    """In a forked child: the lock goes with its last descriptor, and no worker that outlives a killed trainer keeps it.

    Children that are not forked inherit none.
    """
    for descriptor in _DESCRIPTORS:
        os.close(descriptor)
    _DESCRIPTORS.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_leave_to_parent)
