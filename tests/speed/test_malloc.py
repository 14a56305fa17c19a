"""Freed memory that stays: counted in page faults, in a process of its own."""

import multiprocessing
import platform
import resource
from multiprocessing.connection import Connection

import pytest

from vitrail.speed.malloc import keep_freed_memory

MEBIBYTES = 64


def _faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        block = bytearray(MEBIBYTES << 20)
        block[:: resource.getpagesize()] = bytes(len(block[:: resource.getpagesize()]))
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _count(end: Connection) -> None:
    plain = _faults()
    end.send((keep_freed_memory(), plain, _faults()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_blocks_are_used_again_instead_of_faulted_in_again():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_count, args=(theirs,))
    process.start()
    done, plain, kept = ours.recv()
    process.join()
    pages = (MEBIBYTES << 20) // resource.getpagesize()
    assert done
    # By default each of the five blocks is new to the process; kept, only the first one is.
    assert plain > 4 * pages and kept < 2 * pages


def test_elsewhere_it_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
