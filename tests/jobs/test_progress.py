"""What jobs show while they work."""

import os
import sys

import pytest

from vitrail.jobs.progress import say, track


def test_a_job_goes_on_when_its_pipe_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        say("nobody reads this")
        with track("work", 2) as advance:
            advance(1)
            advance(1)
