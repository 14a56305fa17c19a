"""A real server of the page on a free port, with tiny models, that can be killed and started again."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import uvicorn

from tests.web.conftest import make_shown
from vitrail.data import Preprocess
from vitrail.engine import Precision
from vitrail.jobs.inference import Hardware
from vitrail.models import VisionTransformer, ViTConfig
from vitrail.web.app import make_app
from vitrail.web.explore import listen
from vitrail.web.pictures import Pictures
from vitrail.web.session import Session
from vitrail.web.shown import show
from vitrail.weights import Artefact

CLASSES = tuple(f"kind {number}" for number in range(5))


def tiny_model(num_classes: int, seed: int) -> Artefact:
    """Three blocks, patches of eight pixels, a class token and two registers; attention far from uniform."""
    torch.manual_seed(seed)
    config = ViTConfig(
        img_size=(64, 64),
        patch_size=(8, 8),
        embed_dim=24,
        depth=3,
        num_heads=2,
        num_classes=num_classes,
        registers=2,
    )
    model = VisionTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))
    return Artefact(model, CLASSES[:num_classes], Preprocess(size=(64, 64)))


@dataclass
class Running:
    """A server that can be killed and started again on its port."""

    folder: Path
    port: int = 0
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None
    session: Session | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        hardware = Hardware(torch.device("cpu"), Precision("fp32", "for tests"))
        pictures = Pictures()
        for path in sorted(self.folder.iterdir()):
            pictures.add_file(path, path.name)
        models = [show("m0", "tiny", tiny_model(5, 0), hardware), show("m1", "other", tiny_model(0, 1), hardware)]
        self.session = Session([*models, *(make_shown(name) for name in ("swin", "convnext", "registers"))], pictures)
        listening = listen(self.port)
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(make_app(self.session), log_level="error", ws="none", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        assert self._server is not None and self._thread is not None
        self._server.should_exit = True
        self._thread.join(10)
