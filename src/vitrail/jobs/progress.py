"""What a job shows while it works: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitrail.engine import World, stderr_console

LINE_EVERY_S = 5.0


def say(text: str) -> None:
    """One line for the user, on standard error: standard output is for results."""
    stderr_console(soft_wrap=True).print(escape(text))


def say_once(world: World, text: str) -> None:
    """One line from the first process."""
    if world.is_main:
        say(text)


@contextmanager
def track(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far a job is; the value is called with the number of pictures just done.

    Args:
        title: what is being done.
        total: pictures in all.
    """
    console = stderr_console()
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(title, total=total, speed="")
            started = time.perf_counter()

            def advance(count: int) -> None:
                done = bar.tasks[0].completed + count
                bar.update(task, advance=count, speed=f"{done / (time.perf_counter() - started):,.1f} images/s")

            yield advance
    else:
        yield _Lines(title, total)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )


class _Lines:
    """Progress where no terminal listens: a line every few seconds and one at the end."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.started = self.spoken = time.perf_counter()

    def __call__(self, count: int) -> None:
        self.done += count
        now = time.perf_counter()
        if now - self.spoken < LINE_EVERY_S and self.done < self.total:
            return
        self.spoken = now
        rate = self.done / max(1e-9, now - self.started)
        left = (self.total - self.done) / max(1e-9, rate)
        say(f"{self.title}: {self.done}/{self.total}  {rate:,.1f} images/s  {left:.0f} s left")
