"""``vitrail explore``: a local page on which what a model looks at follows the mouse."""

from __future__ import annotations

import socket
import threading
import webbrowser
from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from vitrail.contracts import VitrailError
from vitrail.data import BrokenPicture
from vitrail.engine import World, choose_precision, resolve_device
from vitrail.jobs.inference import Hardware
from vitrail.jobs.models import open_model
from vitrail.jobs.progress import say
from vitrail.web.pictures import Pictures, find_pictures
from vitrail.web.session import Session
from vitrail.web.shown import show

HOST = "127.0.0.1"
PORT = 7860
"""Where the page is when no port was asked for; the next free one when it is taken."""
TRIES = 20


@dataclass(frozen=True, kw_only=True)
class ExploreConfig:
    """A page on this machine that shows what a model looks at: attention of any patch, similarity, colours."""

    model: Positional[str] = "vit_small_patch14_dinov2"
    """Name of a pretrained model, folder of a run or of an artefact, or a checkpoint file."""
    source: Positional[str | None] = None
    """A picture, a folder (searched through) or a glob to choose from; others can be dropped on the page."""
    beside: str | None = None
    """A second model, shown beside the first."""
    port: int | None = None
    """Of the page; 0 takes any free one. Left out: 7860, or the next free one."""
    browser: bool = True
    """Whether a browser is opened."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the forward pass; auto takes bf16 where the hardware proves faster with it. Attention is always in fp32."""
    online: bool = False
    """Whether models may be downloaded."""

    def __post_init__(self) -> None:
        """Refuse ports that there are not."""
        if self.port is not None and not 0 <= self.port <= 65_535:
            raise VitrailError(f"port must be from 0 to 65535, not {self.port}")


def explore(config: ExploreConfig) -> None:
    """Serve the page until it is stopped with Ctrl-C."""
    try:
        import uvicorn

        from vitrail.web.app import make_app
    except ImportError as error:
        raise VitrailError("the page needs starlette and uvicorn: pip install 'vitrail[web]'") from error
    listening = listen(config.port)
    try:
        app = make_app(open_session(config))
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                ws="none",
                # A page at rest for some seconds must not meet a connection that is just being closed.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=2,
            )
        )
        print(address, flush=True)
        say("the page is open at this address; Ctrl-C ends it")
        if config.browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # How a page is ended: nothing went wrong.
    finally:
        listening.close()
    say("the page is closed")


def listen(port: int | None) -> socket.socket:
    """A socket on the loopback interface that already takes connections.

    Args:
        port: 0 for any; None for :data:`PORT`, or the next free one.

    Raises:
        VitrailError: the port is taken, or not for this user.
    """
    candidates = range(PORT, PORT + TRIES) if port is None else (port,)
    reason = ""
    for candidate in candidates:
        # Only where the protocol is named does asyncio send at once (TCP_NODELAY): answers came 40 ms later without.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, candidate))
            listening.listen(128)
            return listening
        except OSError as error:
            listening.close()
            reason = error.strerror or str(error)
    asked = f"port {port}" if port is not None else f"none of the ports {PORT} to {PORT + TRIES - 1}"
    raise VitrailError(f"{asked} can be used ({reason}): choose another with --port, or --port 0 for any free one")


def open_session(config: ExploreConfig) -> Session:
    """Models opened and pictures listed, ready to be served."""
    pictures = Pictures()
    if config.source is not None:
        offer(pictures, config.source)
    device = resolve_device(config.device, World())
    hardware = Hardware(device, choose_precision(config.precision, device))
    names = [config.model] + ([config.beside] if config.beside is not None else [])
    models = []
    for number, name in enumerate(names):
        say(f"opening {name}")
        models.append(show(f"m{number}", name, open_model(name, online=config.online), hardware))
    return Session(models, pictures)


def offer(pictures: Pictures, source: str) -> None:
    """Let the page choose from the pictures of a file, a folder or a glob; broken ones are named and left out.

    Raises:
        VitrailError: there are none.
    """
    found, left_out = find_pictures(source)
    for path, name in found:
        try:
            pictures.add_file(path, name)
        except BrokenPicture as error:
            say(f"left out {error}")
    if left_out:
        say(f"{source}: the first {len(found)} pictures are offered, {left_out} more are not")
