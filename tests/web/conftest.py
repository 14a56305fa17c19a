"""A real server of the page on a free port, with a tiny model, and Debian's Chromium to look at it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("uvicorn", reason="the page needs the extra web")
sync_api = pytest.importorskip("playwright.sync_api", reason="tests of the page need playwright")

import uvicorn  # noqa: E402

from vitrail.data import Preprocess  # noqa: E402
from vitrail.engine import Precision  # noqa: E402
from vitrail.jobs.inference import Hardware  # noqa: E402
from vitrail.models import VisionTransformer, ViTConfig  # noqa: E402
from vitrail.weights import Artefact  # noqa: E402
from vitrail.web.app import make_app  # noqa: E402
from vitrail.web.explore import listen  # noqa: E402
from vitrail.web.pictures import Pictures  # noqa: E402
from vitrail.web.session import Session  # noqa: E402
from vitrail.web.shown import show  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")
SIZES = {"wide.png": (96, 144), "tall.png": (128, 64), "square.png": (64, 64)}
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
        self.session = Session(models, pictures)
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


@pytest.fixture(scope="session")
def pictures_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three shapes, every patch of its own colour."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        coarse = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse.repeat(8, 0).repeat(8, 1)).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def server(pictures_folder: Path) -> Iterator[Running]:
    running = Running(pictures_folder)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[sync_api.Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()
