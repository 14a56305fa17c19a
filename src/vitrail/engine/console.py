"""Standard error, to which a job talks while it works, and which may go away before the job is done."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO, cast

from rich.console import Console


def stderr_console(*, soft_wrap: bool = False) -> Console:
    """A console on standard error whose reader may leave (a closed pipe, a dropped line, a full disk).

    What is written after that is lost, in silence: no work ends because nobody looks on.

    Args:
        soft_wrap: leave the wrapping of long lines to the terminal.
    """
    return Console(file=cast("TextIO", _Dispensable(sys.stderr)), soft_wrap=soft_wrap, highlight=False)


class _Dispensable(io.TextIOBase):
    """A stream that nothing depends on.

    Args:
        stream: where the text goes; None as in a process that was started without it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return "utf-8" if self._stream is None else self._stream.encoding

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Of the stream.

        Raises:
            OSError: it has none.
        """
        return super().fileno() if self._stream is None else self._stream.fileno()

    def write(self, text: str) -> int:
        """All of the text, or as much as is still wanted."""
        if self._stream is not None:
            try:
                self._stream.write(text)
            except OSError:
                let_go(self._stream)
        return len(text)

    def flush(self) -> None:
        """As of any stream."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except OSError:
                let_go(self._stream)


def let_go(stream: TextIO) -> None:
    """Let a broken stream end nowhere: what it still holds would fail again, at the latest when Python ends."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
