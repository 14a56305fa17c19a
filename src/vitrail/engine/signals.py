"""SIGTERM, Ctrl-C and a dropped line: finish the step, keep a checkpoint, leave with an honest exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):
    """The run was asked to stop and has stopped.

    Attributes:
        exit_code: what the process should exit with: 143 after SIGTERM, 130 after Ctrl-C, 129 after SIGHUP.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Abandoned(BaseException):
    """Raised out of work that may be dropped at once (an evaluation) when a stop is asked for."""


class StopRequest:
    """Listens for SIGTERM, SIGINT and SIGHUP while in its ``with`` block; the earlier handlers come back after it.

    The first signal only sets :attr:`exit_code`; a Ctrl-C after that raises ``KeyboardInterrupt`` on the spot. SIGHUP
    stays ignored in a process that was started to outlive its terminal (``nohup``). Outside the main thread, where
    Python allows no handlers, it listens to nothing.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self._pid = os.getpid()
        self._droppable = False
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in _signals():
                self._earlier[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, earlier in self._earlier.items():
            # None: installed by C code, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)

    @contextmanager
    def droppable(self) -> Iterator[None]:
        """Work in this block is abandoned (:class:`Abandoned`) as soon as a stop is asked for."""
        self._droppable = True
        try:
            if self.exit_code:
                raise Abandoned
            yield
        finally:
            self._droppable = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            self._handle_in_worker(number)
            return
        if number == signal.SIGINT and self.exit_code:
            raise KeyboardInterrupt
        self.exit_code = self.exit_code or 128 + number
        if self._droppable:
            raise Abandoned

    @staticmethod
    def _handle_in_worker(number: int) -> None:
        # Forked loader workers inherit this handler. A terminal's Ctrl-C and its end reach them too, but they must live
        # until the step is done; SIGTERM is how their parent ends them, and has to work.
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)


def _signals() -> list[int]:
    """What asks this process to stop; Windows knows no SIGHUP."""
    found: list[int] = [signal.SIGTERM, signal.SIGINT]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found
