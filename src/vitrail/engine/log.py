"""What the user sees while a run goes on: bars on a terminal, plain lines elsewhere, TensorBoard when asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitrail.contracts import VitrailError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_LINE_EVERY_S = 5.0


class Display:
    """Progress of one run, on one console; silent on every rank but the main one.

    Args:
        console: where to; a terminal gets a live bar, anything else a plain line every few seconds.
        silent: print nothing at all.
        total_steps: length of the run in optimiser steps.
        line_every_s: seconds between plain lines.
    """

    def __init__(
        self, console: Console, *, silent: bool, total_steps: int, line_every_s: float = _LINE_EVERY_S
    ) -> None:
        self._console = console
        self._silent = silent
        self._total = total_steps
        self._line_every_s = line_every_s
        self._last_line = 0.0
        self._started = (0, time.perf_counter())
        self._bar: Progress | None = None
        if console.is_terminal and not silent:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("{task.fields[numbers]}"),
                console=console,
            )
            self._task = self._bar.add_task("training", total=total_steps, numbers="")

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def message(self, text: str) -> None:
        """One line for the user."""
        if not self._silent:
            self._console.print(escape(text), highlight=False, soft_wrap=True)

    def warning(self, text: str) -> None:
        """One line that the user should not miss."""
        if not self._silent:
            self._console.print(f"[yellow]warning:[/] {escape(text)}", highlight=False, soft_wrap=True)

    def begin(self, step: int) -> None:
        """Training starts, or goes on, at ``step``."""
        self._started = (step, time.perf_counter())
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def advance(self, step: int, epoch: int, loss: float, lr: float, images_per_s: float) -> None:
        """``step`` optimiser steps are done."""
        if self._silent:
            return
        numbers = f"loss {loss:.4g}  lr {lr:.2e}  {images_per_s:,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=f"epoch {epoch + 1}", numbers=numbers)
            return
        now = time.perf_counter()
        if now - self._last_line >= self._line_every_s or step == self._total:
            self._last_line = now
            left = _clock(self._seconds_left(step, now))
            self._console.print(
                f"epoch {epoch + 1}  step {step}/{self._total}  {numbers}  {left} left", highlight=False, soft_wrap=True
            )

    def _seconds_left(self, step: int, now: float) -> float:
        first, since = self._started
        return (self._total - step) * (now - since) / max(1, step - first)


class Board:
    """TensorBoard's event files, or nothing.

    Args:
        folder: where the events go, or None for none at all.
        purge_step: events from this step on belong to steps that will be taken again.
    """

    def __init__(self, folder: Path | None, purge_step: int) -> None:
        self._writer: SummaryWriter | None = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise VitrailError(
                'TensorBoard was asked for and is not installed: pip install "vitrail[track]", or leave it off'
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=purge_step or None)

    def add(self, row: Mapping[str, float | int], step: int) -> None:
        """One row of numbers at ``step``."""
        if self._writer is not None:
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the files."""
        if self._writer is not None:
            self._writer.close()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
