"""Freed memory that stays: counted in page faults, in a process of its own."""

import platform
import subprocess
import sys

import pytest

from vitrail.speed import malloc

MEBIBYTES = 64
COUNT = """
import importlib.util, resource, sys

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        block = bytearray(SIZE)
        for place in range(0, SIZE, PAGE):
            block[place] = 1
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

SIZE, PAGE = int(sys.argv[2]) << 20, resource.getpagesize()
spec = importlib.util.spec_from_file_location("malloc", sys.argv[1])
malloc = importlib.util.module_from_spec(spec)
spec.loader.exec_module(malloc)
plain = faults()
print(int(malloc.keep_freed_memory()), plain * PAGE // SIZE, faults() * PAGE // SIZE)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_blocks_are_used_again_instead_of_faulted_in_again():
    command = [sys.executable, "-c", COUNT, malloc.__file__, str(MEBIBYTES)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    done, plain, kept = map(int, printed.split())
    assert done
    # In blocks' worth of pages: by default each of the five is new to the process; kept, only the first one is.
    assert plain >= 5 and kept <= 1


def test_elsewhere_it_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not malloc.keep_freed_memory()
