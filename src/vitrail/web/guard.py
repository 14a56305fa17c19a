"""What stands before every route: who may ask, what the browser may load, how much may be sent."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitrail.web.refused import Refused

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names under which this machine reaches itself. A page elsewhere can make its own name lead here (DNS rebinding), but
the browser then sends that name."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "worker-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing is loaded but what this server gives; pictures may come from the page itself."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

MAX_PICTURE = 64 << 20
"""Bytes of an uploaded picture's file."""
MAX_JSON = 16 << 10
"""Bytes of any other request."""

# A browser tells its user why an upload was refused only when it could send all of it.
_MAX_DISCARDED = 1 << 30
_DISCARD_SECONDS = 20.0
_RECEIVE_SECONDS = 120.0


class Guard:
    """Lets requests through that come from this machine's own pages, and says in every answer what a page may load.

    Args:
        app: what stands behind.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is spoken here")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        reason = reason_against(Headers(scope=scope))
        answer = self.app if reason is None else JSONResponse({"error": reason}, status_code=403)
        await answer(scope, receive, send_with_headers)


def reason_against(headers: Headers) -> str | None:
    """Why a request is refused, None for nothing."""
    host = headers.get("host", "")
    if name_of(host) not in LOOPBACK:
        return f"this server answers under the name of this machine only, not {host[:200]!r}: open http://localhost"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return "this request comes from another site"
    if headers.get("sec-fetch-site", "none") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
        return "this request comes from another site"
    return None


def name_of(host: str) -> str | None:
    """The name in a Host header, without its port; None where it is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def until_gone(request: Request) -> None:
    """Wait until the browser has closed the connection, or has given the request up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def read_body(request: Request, limit: int, what: str) -> bytes:
    """A request's whole body.

    Args:
        request: the request.
        limit: bytes that are taken.
        what: it is, for the message.

    Raises:
        Refused: it is larger, or does not come.
    """
    try:
        async with asyncio.timeout(_RECEIVE_SECONDS):
            return await _read_body(request, limit, what)
    except TimeoutError:
        raise Refused(408, f"{what} did not arrive within {_RECEIVE_SECONDS:.0f} seconds") from None


async def _read_body(request: Request, limit: int, what: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    until = time.monotonic() + _DISCARD_SECONDS
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
            continue
        parts.clear()
        if size > _MAX_DISCARDED or time.monotonic() > until:
            break
    if size > limit:
        raise Refused(413, f"{what} is larger than {_in_words(limit)}: take a smaller one")
    return b"".join(parts)


def _in_words(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
