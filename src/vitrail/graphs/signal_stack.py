"""The signal stack of a thread, kept from OpenVINO's.

OpenVINO's CPU plugin gives the thread that loads it an alternate signal stack and unmaps that memory when the plugin is
freed, in whatever thread and order that happens. The thread would be left with a stack that is no more, and the next
signal that Python listens to would kill the process without a word: the end of a loader's worker is enough.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SignalStack(ctypes.Structure):
    """``stack_t`` of Linux: where an alternate stack begins, its state, and its bytes."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> SignalStack:
    """The calling thread's; Linux only."""
    found = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """The calling thread has the same alternate signal stack after the block as before it, or none as before."""
    if sys.platform != "linux":
        yield
        return
    before = signal_stack()
    try:
        yield
    finally:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
