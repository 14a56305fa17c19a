"""The verb itself: a real server on a real socket, from its start to Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from vitrail.cli import main, parse
from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.web import ExploreConfig
from vitrail.web.explore import HOST, PORT, listen
from vitrail.weights import Artefact

from .conftest import make_model, png


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "vit"
    model = make_model("vit")
    Artefact(model, ("cat", "dog", "owl", "fox", "hen"), Preprocess(size=(32, 32))).save_pretrained(folder)
    (folder.parent / "one.png").write_bytes(png())
    return folder


def leave_early(address: str, request: str) -> None:
    """Ask for something and close the connection before the answer."""
    host, _, port = address.removeprefix("http://").rstrip("/").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{request}Host: {host}:{port}\r\n\r\nsome".encode())


def test_from_start_to_ctrl_c(artefact):
    command = [sys.executable, "-c", "from vitrail.cli import main; main()", "explore", str(artefact)]
    options = [str(artefact.parent / "one.png"), "--beside", str(artefact), "--port", "0", "--no-browser"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        command + options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        assert not address.endswith(f":{PORT}/")
        with httpx.Client(base_url=address, timeout=30) as client:
            state = client.get("/api/state").json()
            assert [model["id"] for model in state["models"]] == ["m0", "m1"]
            assert state["pictures"][0]["name"] == "one.png"
            body = {"model": "m1", "picture": state["pictures"][0]["id"], "size": 32}
            found = client.post("/api/encodings", json=body).json()
            assert client.get(f"/api/encodings/{found['id']}/row").headers["x-shape"] == "4,7"
            assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
            leave_early(address, f"GET /api/encodings/{found['id']}/thumbs HTTP/1.1\r\n")
            leave_early(address, "POST /api/pictures HTTP/1.1\r\nContent-Length: 9999\r\n")
            assert client.get("/api/health").status_code == 200
            server.send_signal(signal.SIGINT)
            out, err = server.communicate(timeout=30)
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 0
    assert out == ""
    assert "the page is closed" in err
    assert "Traceback" not in err


def test_only_this_machine_is_listened_to_and_answers_go_out_at_once():
    with listen(0) as listening:
        address = listening.getsockname()
        assert address[0] == "127.0.0.1"
        assert listening.proto == socket.IPPROTO_TCP  # What makes asyncio switch Nagle's waiting off.
        with pytest.raises(VitrailError, match=rf"port {address[1]} .*--port 0"):
            listen(address[1])


def test_the_usual_port_or_the_next_free_one():
    with listen(None) as first, listen(None) as second:
        ports = [one.getsockname()[1] for one in (first, second)]
        assert PORT <= ports[0] < ports[1] < PORT + 20
        assert HOST == "127.0.0.1"


def test_other_verbs_need_no_server():
    """The page is an extra: without its packages everything else works, and explore says what to install."""
    code = "import sys; sys.modules.update(starlette=None, uvicorn=None); from vitrail.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, "explore", "some_model", "--no-browser"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 1
    assert "pip install 'vitrail[web]'" in done.stderr


def test_options():
    config = parse("explore", ["some_model", "photos", "--no-browser", "--port", "0"])
    assert config == ExploreConfig(model="some_model", source="photos", browser=False, port=0)
    assert parse("explore", []) == ExploreConfig()
    with pytest.raises(VitrailError, match="65535"):
        ExploreConfig(port=70_000)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such_model", "--no-browser", "--port", "0"], "no_such_model"),
        (["no_such_model", "/no/such/folder", "--no-browser", "--port", "0"], "no such file or folder"),
        (["videomae_small_patch16_224", "--no-browser", "--port", "0"], "videomae"),
    ],
)
def test_what_cannot_be_shown_ends_with_a_sentence(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(["explore", *arguments])
    assert end.value.code == 1
    assert words in capsys.readouterr().err


def test_a_video_model_is_refused():
    from vitrail.models import VideoConfig, VideoTransformer
    from vitrail.web.shown import encoder_of

    config = VideoConfig(img_size=32, patch_size=16, embed_dim=16, depth=1, num_heads=2, frames=4, num_classes=0)
    with pytest.raises(VitrailError, match="single pictures"):
        encoder_of(VideoTransformer(config))


def test_the_server_is_found_again_after_its_end(artefact):
    """The port of a server that has just ended can be taken at once: a page that waits for it recovers."""
    with listen(0) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection((HOST, port)):
            taken, _ = listening.accept()
            taken.close()
    started = time.monotonic()
    listen(port).close()
    assert time.monotonic() - started < 1
