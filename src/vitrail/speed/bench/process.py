"""The process of one contestant: ``python -m vitrail.speed.bench.process FD`` makes its work and does it when told.

Everything comes and goes through a pipe. When the pipe ends, so does the process.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from vitrail.speed.bench.work import Enough, Make, Ready, Refused, Turn

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def main() -> None:
    """Serve the pipe whose descriptor is the first argument."""
    pipe = Connection(int(sys.argv[1]))
    with suppress(EOFError, BrokenPipeError):
        try:
            _serve(pipe)
        except (EOFError, BrokenPipeError):
            raise
        except Exception as error:
            traceback.print_exc()
            pipe.send(Refused(f"{type(error).__name__}: {error}"))


def _serve(pipe: Connection) -> None:
    make: Make = pipe.recv()
    work = make()
    held = reset_peak()
    found = work.answer() if work.answer else None
    pipe.send(Ready(work.pictures, found, work.notes(), dict(work.versions)))
    while isinstance(request := pipe.recv(), Turn):
        pipe.send(mean_seconds(work.run, request.seconds))
    assert isinstance(request, Enough)
    peak = _status("VmHWM")
    pipe.send(None if held is None or peak is None else peak - held)


def mean_seconds(run: Callable[[], object], at_least: float) -> float:
    """Seconds of one call: the mean of as many as ``at_least`` seconds hold, and of one at least."""
    started = time.perf_counter()
    calls = 0
    while True:
        run()
        calls += 1
        took = time.perf_counter() - started
        if took >= at_least:
            return took / calls


def reset_peak() -> float | None:
    """Forget the most memory that this process has held; MiB that it holds now. None where the system cannot."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> float | None:
    """A line of the process's status, in MiB."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)


if __name__ == "__main__":
    main()
