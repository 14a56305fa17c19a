"""Work off the event loop: one piece at a time on each lane, in the order in which it was asked for.

Forward passes have a lane of their own, so that hooks and gradients of two requests never meet in one model, and rows
another one, so that a mouse that moves does not wait behind the encoding of the next picture.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vitrail.web.refused import Refused

Result = TypeVar("Result")


class Lane:
    """A thread that does one piece of work after the other.

    Args:
        name: of the thread.
        room: pieces that may wait or be at work; one more is refused with status 503.
    """

    def __init__(self, name: str, room: int) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._room = threading.BoundedSemaphore(room)

    async def run(self, work: Callable[[], Result]) -> Result:
        """What ``work`` gives, without holding up the event loop.

        Raises:
            Refused: too much is waiting already.
        """
        if not self._room.acquire(blocking=False):
            raise Refused(503, "the server is busy with earlier requests: try again in a moment")
        try:
            future = self._thread.submit(work)
        except RuntimeError:
            self._room.release()
            raise Refused(503, "the server is about to end") from None
        # Not when this request ends, which a browser may do earlier: when the work does.
        future.add_done_callback(lambda _: self._room.release())
        # Cancelling this cancels work that has not begun, so that what nobody waits for any more is never done.
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Forget what waits; what is at work comes to its end."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Lanes:
    """The lanes of a server.

    Attributes:
        passes: forward and backward passes.
        rows: rows of attention.
        rest: reading pictures, colours, figures.
    """

    def __init__(self) -> None:
        self.passes = Lane("passes", room=16)
        self.rows = Lane("rows", room=64)
        self.rest = Lane("rest", room=64)

    def close(self) -> None:
        """Forget what waits."""
        for lane in (self.passes, self.rows, self.rest):
            lane.close()
