"""Requests that are answered with a sentence instead of a result."""

from __future__ import annotations

from vitrail.contracts import VitrailError


class Refused(VitrailError):
    """What a request asked for cannot be had.

    Args:
        status: of HTTP: 400 for what makes no sense, 404 for what there is not, 410 for what is no longer kept,
            413 for too much, 503 for too much at once.
        reason: a sentence for the user.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
