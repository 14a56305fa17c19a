"""Processes for tests to kill, each forked in milliseconds from one that has imported torch already.

As a script it reads one JSON request a line and answers each with one line:
``{"start": scenario, "arguments": {…}, "environment": {…}, "log": path}`` -> pid;
``{"wait": pid, "timeout": seconds}`` -> exit status as ``subprocess`` counts it (negative: signal), or null.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from . import scenarios

ROOT = Path(__file__).parents[2]


class Zygote:
    """The test's end of the line."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self._folder = folder
        self._started = 0

    def start(self, scenario: str, environment: dict[str, str] | None = None, **arguments: object) -> int:
        """Run a function of ``scenarios`` in a process of its own; returns its pid."""
        self._started += 1
        log = self._folder / f"{self._started}-{scenario}.log"
        return self._ask({"start": scenario, "arguments": arguments, "environment": environment or {}, "log": str(log)})

    def wait(self, pid: int, timeout: float = 60.0) -> int | None:
        """The exit status of a process; None when it still runs after ``timeout``."""
        return self._ask({"wait": pid, "timeout": timeout})

    def run(self, scenario: str, **arguments: object) -> int | None:
        """Start and wait."""
        return self.wait(self.start(scenario, None, **arguments))

    def logs(self) -> str:
        """All that the processes printed, for failure messages."""
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self._folder.glob("*.log")))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _child(request: dict[str, Any]) -> None:
    status = 1
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(request["environment"])
    try:
        status = scenarios.SCENARIOS[request["start"]](**request["arguments"]) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(pid: int, timeout: float) -> int | None:
    deadline = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)


def main() -> None:
    # The first optimiser step imports the compiler: once here, not in every child.
    importlib.import_module("torch._dynamo")

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = _wait(request["wait"], request["timeout"])
        else:
            answer = os.fork()
            if answer == 0:
                _child(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
