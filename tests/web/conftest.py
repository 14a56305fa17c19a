"""A server with small models of several families, each with random weights far from uniform attention."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from torch import nn

from vitrail.data import Preprocess
from vitrail.engine import choose_precision
from vitrail.jobs.inference import Hardware
from vitrail.models import (
    Backbone,
    Beit,
    BeitConfig,
    ConvNeXt,
    ConvNeXtConfig,
    ImageTower,
    ImageTowerConfig,
    SamEncoder,
    SamEncoderConfig,
    Swin,
    SwinConfig,
    VisionTransformer,
    ViTConfig,
)
from vitrail.web.app import make_app
from vitrail.web.pictures import Pictures
from vitrail.web.session import Session
from vitrail.web.shown import Shown, show
from vitrail.weights import Artefact

BASE = "http://127.0.0.1:7860"
SMALL: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}

MODELS: dict[str, Callable[[], Backbone]] = {
    "dinov2": lambda: VisionTransformer(ViTConfig(img_size=32, num_classes=0, registers=4, **SMALL)),
    "vit": lambda: VisionTransformer(ViTConfig(img_size=32, num_classes=5, **SMALL)),
    "registers": lambda: VisionTransformer(
        ViTConfig(img_size=32, num_classes=0, class_token=False, registers=4, pool="mean", **SMALL)
    ),
    "beit": lambda: Beit(BeitConfig(img_size=32, num_classes=3, **SMALL)),
    "clip": lambda: ImageTower(ImageTowerConfig(img_size=32, **SMALL)),
    "sam": lambda: SamEncoder(SamEncoderConfig(img_size=64, window=3, global_blocks=(2,), neck_dim=16, **SMALL)),
    "swin": lambda: Swin(
        SwinConfig(
            img_size=32, patch_size=2, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=4
        )
    ),
    "convnext": lambda: ConvNeXt(ConvNeXtConfig(depths=(1, 1, 1, 1), widths=(8, 16, 24, 32), num_classes=3)),
}
CLASSES = {"vit": ("cat", "dog", "owl", "fox", "hen")}


def make_model(name: str) -> Backbone:
    torch.manual_seed(5)
    model = MODELS[name]()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.25)
    return model.eval()


def make_shown(name: str) -> Shown:
    model = make_model(name)
    device = torch.device("cpu")
    hardware = Hardware(device, choose_precision("fp32", device))
    classes = CLASSES.get(name, tuple(f"kind {i}" for i in range(model.num_classes)))
    return show(name, f"a {name}", Artefact(model, classes, Preprocess(size=model.img_size)), hardware)


def png(height: int = 50, width: int = 90, seed: int = 0) -> bytes:
    """Blocks of colour, so that patches differ."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 255, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)[:height, :width]).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Page:
    """A session and a browser's part of the talk with it."""

    session: Session
    client: TestClient

    def upload(self, data: bytes | None = None, name: str = "cat.png") -> dict[str, Any]:
        answer = self.client.post("/api/pictures", params={"name": name}, content=png() if data is None else data)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def encode(self, model: str, size: int = 48, data: bytes | None = None) -> dict[str, Any]:
        picture = self.upload(data)["id"]
        answer = self.client.post("/api/encodings", json={"model": model, "picture": picture, "size": size})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, encoding: dict[str, Any], what: str):
        return self.client.get(f"/api/encodings/{encoding['id']}/{what}")


def shape_of(answer) -> tuple[int, ...]:
    return tuple(int(side) for side in answer.headers["x-shape"].split(","))


def numbers(answer, header: str) -> np.ndarray:
    return np.array([float(number) for number in answer.headers[header].split(",")])


def maps_of(answer) -> np.ndarray:
    """Maps in their own units, from bytes and tops."""
    assert answer.status_code == 200, answer.text
    values = np.frombuffer(answer.content, np.uint8).reshape(shape_of(answer)).astype(np.float64)
    tops = numbers(answer, "x-top")
    return values / 255 * tops.reshape(*values.shape[:-2], 1, 1)


def error_of(answer, status: int) -> str:
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert list(answer.json()) == ["error"]
    return answer.json()["error"]


@pytest.fixture(scope="session")
def shown() -> list[Shown]:
    return [make_shown(name) for name in MODELS]


@pytest.fixture
def page(shown: list[Shown]) -> Iterator[Page]:
    session = Session(shown, Pictures())
    with TestClient(make_app(session), base_url=BASE, raise_server_exceptions=False) as client:
        yield Page(session, client)
