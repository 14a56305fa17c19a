"""What the page can ask for, by address."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from vitrail.explanations import AttentionRecord
from vitrail.web import answers, wire
from vitrail.web.encoding import Encoding
from vitrail.web.guard import MAX_JSON, MAX_PICTURE, read_body, until_gone
from vitrail.web.lanes import Lane, Lanes
from vitrail.web.refused import Refused
from vitrail.web.session import Session

STATIC = Path(__file__).parent / "static"
UPLOADS = 4
"""Pictures that may arrive at the same time."""
LONGEST = 4096
"""Pixels along either side of a picture that is given back for saving, at most."""
GIVEN_UP = 499
"""Status of an answer that nobody waits for."""


class Api:
    """The routes of a session.

    Args:
        session: what is shown.
        lanes: where work is done.
    """

    def __init__(self, session: Session, lanes: Lanes) -> None:
        self.session = session
        self.lanes = lanes
        self.arriving = 0

    def routes(self) -> list[Route | Mount]:
        """All of them."""
        one = "/api/encodings/{id}"
        return [
            Route("/", self.page),
            Route("/api/health", self.health),
            Route("/api/state", self.state),
            Route("/api/pictures", self.add_picture, methods=["POST"]),
            Route("/api/pictures/{id}/image", self.original),
            Route("/api/encodings", self.encode, methods=["POST"]),
            Route(f"{one}/image", self.on(self.lanes.rest, image)),
            Route(f"{one}/features", self.on(self.lanes.rest, features)),
            Route(f"{one}/row", self.on(self.lanes.rows, row)),
            Route(f"{one}/thumbs", self.on(self.lanes.rest, thumbs)),
            Route(f"{one}/map", self.on(self.lanes.passes, whole_map)),
            Route(f"{one}/pca", self.on(self.lanes.rest, self.colours)),
            Route(f"{one}/strip", self.on(self.lanes.rest, strip)),
            Route(f"{one}/reach", self.on(self.lanes.rest, reach)),
            Route(f"{one}/norms", self.on(self.lanes.rest, norms)),
            Route(f"{one}/positions", self.on(self.lanes.rest, positions)),
            Route(f"{one}/export.npz", self.on(self.lanes.rows, export)),
            Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
        ]

    async def page(self, request: Request) -> Response:
        """The page itself."""
        if not (STATIC / "index.html").is_file():
            raise Refused(500, f"the page's files are not in this installation ({STATIC}): install vitrail again")
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    async def health(self, request: Request) -> Response:
        """Whether the server is still the one that the page was opened from."""
        return JSONResponse({"session": self.session.id})

    async def state(self, request: Request) -> Response:
        """Models, pictures and sizes."""
        return JSONResponse(self.session.state())

    async def add_picture(self, request: Request) -> Response:
        """Take an uploaded picture."""
        name = request.query_params.get("name", "picture")
        if self.arriving >= UPLOADS:
            raise Refused(503, f"{UPLOADS} pictures are arriving already: send this one again when they are there")
        self.arriving += 1
        try:
            data = await read_body(request, MAX_PICTURE, "the picture's file")
        finally:
            self.arriving -= 1
        picture = await self.lanes.rest.run(partial(self.session.pictures.add_upload, data, name))
        return JSONResponse(picture.state())

    async def original(self, request: Request) -> Response:
        """A picture upright at its own resolution, within :data:`LONGEST`, for a map to be saved on it."""
        picture = self.session.pictures.get(request.path_params["id"])

        def give() -> Response:
            pixels = self.session.pictures.open(picture, 3)
            if max(pixels.size) > LONGEST:
                pixels = pixels.copy()
                pixels.thumbnail((LONGEST, LONGEST))
            return wire.png_response(pixels)

        return await self.lanes.rest.run(give)

    async def encode(self, request: Request) -> Response:
        """Run a model on a picture."""
        asked = _json_object(await read_body(request, MAX_JSON, "the request"))
        model, picture, size = (asked.get(name) for name in ("model", "picture", "size"))
        if not isinstance(model, str) or not isinstance(picture, str) or type(size) is not int:
            raise Refused(400, 'a request for an encoding is {"model": id, "picture": id, "size": pixels}')
        encoding = await self.lanes.passes.run(partial(self.session.encode, model, picture, size))
        return JSONResponse(encoding.state())

    def on(self, lane: Lane, answer: Callable[[Encoding, Request], Response]) -> Callable[[Request], object]:
        """A route that computes an answer from an encoding, off the event loop."""

        async def endpoint(request: Request) -> Response:
            encoding = self.session.encoding(request.path_params["id"])
            work = asyncio.create_task(lane.run(partial(answer, encoding, request)))
            leaving = asyncio.create_task(until_gone(request))
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
            if not work.done():
                work.cancel()
                return Response(status_code=GIVEN_UP)
            return work.result()

        return endpoint

    def colours(self, encoding: Encoding, request: Request) -> Response:
        """Patch features as colours."""
        other = request.query_params.get("with")
        return wire.colours_response(answers.colours(encoding, self.session.encoding(other) if other else None))


def image(encoding: Encoding, request: Request) -> Response:
    """What the model saw."""
    return wire.png_response(encoding.seen())


def features(encoding: Encoding, request: Request) -> Response:
    """Unit-length features."""
    return wire.features_response(answers.features(encoding, whole_number(request, "layer", -1)))


def row(encoding: Encoding, request: Request) -> Response:
    """One token's attention in one layer."""
    layer, query = whole_number(request, "layer", -1), whole_number(request, "query", 0)
    return answers.row(encoding, layer, query, request.query_params.get("heads", "mean")).response()


def thumbs(encoding: Encoding, request: Request) -> Response:
    """One token's attention in all layers and heads."""
    return answers.thumbs(encoding, whole_number(request, "query", 0)).response()


def whole_map(encoding: Encoding, request: Request) -> Response:
    """A map of the whole model."""
    kind = request.query_params.get("kind", "")
    if kind not in answers.KINDS:
        raise Refused(400, f"kind is one of {', '.join(answers.KINDS)}, not {kind[:50]!r}")
    query, label = (whole_number_or_none(request, name) for name in ("query", "class"))
    return answers.KINDS[kind](encoding, query, label).response()


def strip(encoding: Encoding, request: Request) -> Response:
    """The classifier's view of every block."""
    return JSONResponse(answers.strip(encoding))


def reach(encoding: Encoding, request: Request) -> Response:
    """Distances and entropies of all heads."""
    return JSONResponse(answers.reach(encoding))


def norms(encoding: Encoding, request: Request) -> Response:
    """Lengths of all tokens."""
    return JSONResponse(answers.norms(encoding))


def positions(encoding: Encoding, request: Request) -> Response:
    """Similarity of positions."""
    return answers.positions(encoding, whole_number(request, "query", encoding.recall.tokens.prefix)).response()


def export(encoding: Encoding, request: Request) -> Response:
    """The weights themselves, in float32."""
    layer, query = whole_number(request, "layer", -1), whole_number(request, "query", 0)
    attention = answers.layer_row(encoding, layer, query)
    depth = len(encoding.recall.given)
    record = AttentionRecord(depth)
    record.add(layer % depth, attention)
    file = io.BytesIO()
    record.write_npz(file)
    name = f"attention-layer{layer % depth}-token{query}.npz"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(file.getvalue(), media_type=wire.BINARY, headers=headers)


def whole_number(request: Request, name: str, default: int) -> int:
    """A whole number among the parameters of a request.

    Raises:
        Refused: it is something else.
    """
    number = whole_number_or_none(request, name)
    return default if number is None else number


def whole_number_or_none(request: Request, name: str) -> int | None:
    """The same, None when it is left out."""
    text = request.query_params.get(name)
    if text is None:
        return None
    number = wire.read_whole(text)
    if number is None:
        raise Refused(400, f"{name} is a whole number, not {text[:50]!r}")
    return number


def _json_object(body: bytes) -> dict[str, object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refused(400, "the request must be a JSON object")
    return value
