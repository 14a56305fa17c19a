"""Processes that take turns: A B C, A B C, …, so that a machine's drift meets all alike.

Every contestant has a process of its own, which waits at a pipe while another works. So no contestant's settings,
compiled code, threads or memory reach another's. One that fails or takes too long is left out from then on.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any

from vitrail.speed.bench.work import Answer, Enough, Make, Ready, Refused, Turn

PAUSE_S = 0.05
"""Before a turn: idle threads of the one before may still spin."""

_MODULE = "vitrail.speed.bench.process"
_LAST = 300
"""Characters of a process's last words that are repeated."""


@dataclass(frozen=True)
class Finished:
    """A contestant that has had all its turns.

    Attributes:
        seconds: of one call, the mean of each turn.
        pictures: of one call.
        answer: what came out.
        memory: MiB that the work held at most, beyond what the process held before; None where not known.
        notes, versions: as in :class:`~vitrail.speed.bench.Work`.
    """

    seconds: tuple[float, ...]
    pictures: int
    answer: Answer | None
    memory: float | None
    notes: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """What became of every contestant: by name, in their order; ``failed`` has the reasons."""

    finished: Mapping[str, Finished]
    failed: Mapping[str, str]


def interleave(
    contestants: Mapping[str, Make],
    rounds: int,
    turn_s: float = 1.0,
    timeout_s: float = 300.0,
    threads: int | None = None,
    said: Callable[[str], object] = str,
) -> Report:
    """Make every contestant's work in a process of its own, then let them work in turns.

    Args:
        contestants: what each does, by name.
        rounds: that count; one before them does not.
        turn_s: how long a turn lasts; a longer call is finished.
        timeout_s: most seconds for making the work and doing it once, and for a turn.
        threads: of each process; None for what its libraries choose.
        said: is told what is going on.
    """
    failed: dict[str, str] = {}
    ready: dict[str, Ready] = {}
    seconds: dict[str, list[float]] = {}
    memory: dict[str, float | None] = {}
    with _processes() as running:

        def ask(name: str, request: object, wait: float) -> Any:
            """The reply, or None and a place among the failed."""
            try:
                return running[name].ask(request, wait)
            except _Gone as gone:
                failed[name] = str(gone)
                said(f"{name} is out: {gone}")
                running.pop(name).end()
                return None

        for name, make in contestants.items():
            said(f"{name} gets ready")
            running[name] = _Process(threads)
            reply = ask(name, make, timeout_s)
            if reply is not None:
                ready[name], seconds[name] = reply, []
        for turn in range(rounds + 1):
            said(f"round {turn} of {rounds}" if turn else "a round to warm up")
            for name in list(running):
                took = ask(name, Turn(turn_s), timeout_s + turn_s)
                if turn and took is not None:
                    seconds[name].append(took)
        for name in list(running):
            memory[name] = ask(name, Enough(), timeout_s)
    finished = {
        name: Finished(tuple(seconds[name]), one.pictures, one.answer, memory.get(name), one.notes, one.versions)
        for name, one in ready.items()
        if name not in failed
    }
    return Report(finished, failed)


def answer(make: Make, timeout_s: float = 300.0, threads: int | None = None) -> Answer | None:
    """What one contestant's work gives, without any turns.

    Raises:
        RuntimeError: it failed.
    """
    report = interleave({"answer": make}, 0, 0.0, timeout_s, threads)
    if report.failed:
        raise RuntimeError(report.failed["answer"])
    return report.finished["answer"].answer


class _Gone(Exception):
    """A process failed, died or took too long."""


@dataclass
class _Process:
    """One contestant's process, started, and the end of the pipe to it."""

    threads: int | None
    child: subprocess.Popen[bytes] = field(init=False)
    pipe: Connection = field(init=False)
    words: IO[bytes] = field(init=False)

    def __post_init__(self) -> None:
        """Start it: a session of its own, so that it can be ended with all that it may have started."""
        self.pipe, theirs = Pipe()
        self.words = tempfile.TemporaryFile()  # noqa: SIM115 (closed by end)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        if self.threads:
            environment |= {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        self.child = subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=self.words,
            stderr=self.words,
            pass_fds=[theirs.fileno()],
            env=environment,
            start_new_session=True,
        )
        theirs.close()

    def ask(self, request: object, wait: float) -> Any:
        """The reply.

        Raises:
            _Gone: there is none.
        """
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(PAUSE_S)
        try:
            self.pipe.send_bytes(pickle.dumps(request))
            if not self.pipe.poll(wait):
                raise _Gone(f"no answer within {wait:g} s")
            reply = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise _Gone(self._last_words()) from error
        if isinstance(reply, Refused):
            raise _Gone(reply.reason.strip().splitlines()[0][:_LAST])
        return reply

    def end(self) -> None:
        """Leave nothing of it behind."""
        self.pipe.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        self.words.close()

    def _last_words(self) -> str:
        code = self.child.wait()
        self.words.seek(0)
        lines = self.words.read().decode(errors="replace").strip().splitlines()
        how = f"killed by signal {-code}" if code < 0 else f"its process ended with {code}"
        return f"{how}: {lines[-1][:_LAST]}" if lines else how


@contextmanager
def _processes() -> Iterator[dict[str, _Process]]:
    """A place for processes by name; however the block is left, none stays."""
    running: dict[str, _Process] = {}
    try:
        yield running
    finally:
        for process in running.values():
            process.end()
