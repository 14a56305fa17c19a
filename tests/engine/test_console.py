"""Standard error whose reader leaves before the work is done."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TextIO

import pytest

from vitrail.engine import stderr_console

from .tiny import TinyLoader, TinyMethod, tiny_config, train


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def hung_up_terminal() -> int:
    pty = pytest.importorskip("pty")
    master, terminal = pty.openpty()
    os.close(master)
    return terminal


def full_disk() -> int:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    return os.open("/dev/full", os.O_WRONLY)


@pytest.fixture(params=[closed_pipe, hung_up_terminal, full_disk])
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TextIO:
    stream = os.fdopen(request.param(), "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_training_goes_on_when_nobody_listens(broken: TextIO, tmp_path: Path) -> None:
    result = train(tmp_path, tiny_config(), TinyMethod(), TinyLoader(), console=stderr_console())
    assert result.checkpoint.exists()
    # Nothing is left in the stream's buffer, which Python would write at its end, and fail.
    broken.close()


def test_a_process_without_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    console = stderr_console()
    console.print("nobody reads this")
    assert not console.is_terminal


def test_what_is_said_arrives_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = "nine words " * 40
    stderr_console(soft_wrap=True).print(line)
    assert capsys.readouterr() == ("", line + "\n")
