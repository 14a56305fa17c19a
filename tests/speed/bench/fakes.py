"""Contestants whose speed is known, and some that fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail.speed.bench import Work


@dataclass(frozen=True)
class Sleeper:
    """Takes so many seconds, and says when it did; its answer is off by so much."""

    seconds: float
    log: Path
    name: str = ""
    pictures: int = 4
    off: float = 0.0

    def __call__(self) -> Work:
        """Ready at once."""

        def run() -> None:
            with self.log.open("a") as file:
                file.write(f"{self.name} {os.getpid()}\n")
            time.sleep(self.seconds)

        answer = np.array([3.0, 4.0 * (1 + self.off)], dtype=np.float32)
        return Work(run, self.pictures, lambda: answer, lambda: f"sleeps {self.seconds}", {"clock": "1"})


@dataclass(frozen=True)
class Failing:
    """Fails in its own way."""

    how: Callable[[], object]
    late: bool = False

    def __call__(self) -> Work:
        """Fails now, or when it is to run."""
        if not self.late:
            self.how()
        return Work(self.how, 1)


def complain() -> None:
    raise ValueError("no such kernel")


def die() -> None:
    print("the last words", flush=True)
    os._exit(7)


def hang() -> None:
    time.sleep(600)


@dataclass(frozen=True)
class Parent:
    """Starts a process of its own, then waits."""

    log: Path

    def __call__(self) -> Work:
        """Tell both numbers."""
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.log.write_text(f"{os.getpid()} {child.pid}")
        return Work(lambda: None, 1)
