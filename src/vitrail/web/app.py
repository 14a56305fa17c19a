"""The server: routes behind the guard, and every error as a sentence."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from vitrail.contracts import VitrailError
from vitrail.web.guard import Guard
from vitrail.web.lanes import Lanes
from vitrail.web.refused import Refused
from vitrail.web.routes import GIVEN_UP, Api
from vitrail.web.session import Session

# What the machine's own tables say of scripts differs, and a browser runs none of another type.
mimetypes.add_type("text/javascript", ".js")
mimetypes.add_type("text/javascript", ".mjs")


def make_app(session: Session) -> Starlette:
    """The server of a session.

    Args:
        session: models, pictures and what is remembered of them.
    """
    lanes = Lanes()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        lanes.close()

    return Starlette(
        routes=Api(session, lanes).routes(),
        middleware=[Middleware(Guard)],
        exception_handlers={
            VitrailError: _explained,
            HTTPException: _http,
            MemoryError: _out_of_memory,
            ClientDisconnect: _given_up,
            Exception: _unexpected,
        },
        lifespan=lifespan,
    )


def _answer(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status_code=status)


def _explained(request: Request, error: Exception) -> Response:
    return _answer(error.status if isinstance(error, Refused) else 400, str(error))


def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    what = HTTPStatus(error.status_code).phrase.lower()
    return _answer(error.status_code, f"{request.method} {request.url.path[:200]}: {what}")


def _out_of_memory(request: Request, error: Exception) -> Response:
    return _answer(503, "there is not enough memory for this: take a smaller size")


def _given_up(request: Request, error: Exception) -> Response:
    return Response(status_code=GIVEN_UP)


def _unexpected(request: Request, error: Exception) -> Response:
    return _answer(500, f"the server made a mistake ({type(error).__name__}); its terminal shows where")
