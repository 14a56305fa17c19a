"""What the server refuses, forgets and survives."""

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.testclient import TestClient

from vitrail.web import guard, routes
from vitrail.web.app import make_app
from vitrail.web.lanes import Lane
from vitrail.web.pictures import Pictures
from vitrail.web.refused import Refused
from vitrail.web.session import Session

from .conftest import BASE, Page, error_of, maps_of, png


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.", "", "[::1"]
)
def test_other_names_than_this_machines_are_refused(page: Page, host):
    for address in ("/", "/api/state", "/static/app.js"):
        assert "name of this machine" in error_of(page.client.get(address, headers={"Host": host}), 403)


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:1", "localhost", "[::1]:7860", "LOCALHOST"])
def test_this_machines_names_are_taken(page: Page, host):
    assert page.client.get("/api/health", headers={"Host": host}).status_code == 200


def test_other_sites_may_not_ask(page: Page):
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ):
        assert "another site" in error_of(page.client.post("/api/pictures", content=png(), headers=headers), 403)
    assert page.client.post("/api/pictures", content=png(), headers={"Origin": BASE}).status_code == 200
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert page.client.get("/api/health", headers=followed).status_code == 200


def test_every_answer_says_what_may_be_loaded(page: Page):
    wrong_host = page.client.get("/", headers={"Host": "evil.example"})
    for answer in (page.client.get("/api/state"), page.client.get("/nothing"), page.client.get("/"), wrong_host):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "http" not in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert page.client.get("/api/state").headers["cache-control"] == "no-store"


def test_only_the_pages_own_files_are_given(page: Page, tmp_path, monkeypatch):
    for path in ("../app.py", "%2e%2e/app.py", "..%2fapp.py", "%2e%2e%2f%2e%2e%2fcli.py", "/etc/passwd", "..\\app.py"):
        answer = page.client.get(f"/static/{path}")
        assert answer.status_code == 404
        assert b"import" not in answer.content


def test_unknown_addresses_and_methods_get_a_sentence(page: Page):
    assert "not found" in error_of(page.client.get("/api/nothing"), 404)
    assert "method" in error_of(page.client.delete("/api/state"), 405)


def test_an_upload_that_is_too_large_is_read_to_its_end_and_refused(page: Page, monkeypatch):
    monkeypatch.setattr(routes, "MAX_PICTURE", 1 << 20)
    assert "1 MiB" in error_of(page.client.post("/api/pictures", content=b"x" * (3 << 20)), 413)
    assert "16 KiB" in error_of(page.client.post("/api/encodings", content=b"x" * (guard.MAX_JSON + 1)), 413)
    page.upload()


def turned(orientation: int) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(io.BytesIO(png(40, 72))).save(file, "JPEG", exif=exif)
    return file.getvalue()


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_pictures_of_all_kinds_are_taken(page: Page):
    grey = Image.fromarray(np.arange(50 * 90, dtype=np.uint16).reshape(50, 90) * 14)
    colour = Image.open(io.BytesIO(png()))
    frames = [colour, Image.new("RGB", colour.size, "red")]
    kinds = {
        "palette.png": saved(colour.quantize(7), "PNG"),
        "16bit.png": saved(grey, "PNG"),
        "cmyk.jpg": saved(colour.convert("CMYK"), "JPEG"),
        "transparent.png": saved(colour.convert("RGBA"), "PNG"),
        "animated.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "wrong-name.txt": png(),
    }
    for name, data in kinds.items():
        picture = page.upload(data, name)
        assert (picture["name"], picture["width"], picture["height"]) == (name, 90, 50)
        answer = page.client.post("/api/encodings", json={"model": "vit", "picture": picture["id"], "size": 32})
        assert answer.status_code == 200, name
    sideways = page.upload(turned(6))
    assert (sideways["width"], sideways["height"]) == (40, 72)
    assert [picture["name"] for picture in page.client.get("/api/state").json()["pictures"]][:2] == [
        "palette.png",
        "16bit.png",
    ]


def bomb() -> bytes:
    """A small file that says it has 900 million pixels."""
    data = bytearray(saved(Image.new("L", (8, 8)), "BMP"))
    data[18:26] = (30_000).to_bytes(4, "little") * 2
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (png()[: len(png()) // 2], "cut off"),
        (b"<!doctype html><p>", "HTML"),
        (b"just words", "text"),
        (bomb(), "bomb"),
        (saved(Image.new("F", (8, 8)), "TIFF"), "mode F"),
    ],
)
def test_broken_pictures_get_a_sentence_that_names_them(page: Page, data, reason):
    answer = page.client.post("/api/pictures", params={"name": "holiday.jpg"}, content=data)
    error = error_of(answer, 400)
    assert error.startswith("holiday.jpg: ")
    assert reason in error
    assert page.client.get("/api/state").json()["pictures"] == []


def test_names_of_uploads_stay_names(page: Page):
    assert page.upload(name="../../etc/passwd")["name"] == "passwd"
    assert page.upload(png(seed=1), name="C:\\Users\\me\\cat.png")["name"] == "cat.png"
    assert page.upload(png(seed=2), name="a\nb\x1b[31m")["name"] == "a\\nb\\x1b[31m"
    assert page.upload(png(seed=4), name="")["name"] == "picture"


def test_files_of_this_machine_are_named_not_placed(shown, tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "one.png").write_bytes(png())
    (tmp_path / "turned.jpg").write_bytes(turned(8))
    (tmp_path / "broken.png").write_bytes(b"")
    from vitrail.web.explore import ExploreConfig, offer

    pictures = Pictures()
    offer(pictures, str(tmp_path))
    with TestClient(make_app(Session(shown, pictures)), base_url=BASE, raise_server_exceptions=False) as client:
        state = client.get("/api/state")
        assert [(p["name"], p["width"], p["height"]) for p in state.json()["pictures"]] == [
            ("cats/one.png", 90, 50),
            ("turned.jpg", 40, 72),
        ]
        assert str(tmp_path) not in state.text
        chosen = state.json()["pictures"][0]["id"]
        (tmp_path / "cats" / "one.png").unlink()
        answer = client.post("/api/encodings", json={"model": "vit", "picture": chosen, "size": 32})
        assert error_of(answer, 400) == "cats/one.png: no such file"
    assert ExploreConfig(model="x").source is None


def test_the_oldest_uploads_are_forgotten_first(shown):
    sizes = [len(png(seed=seed)) for seed in range(3)]
    session = Session(shown, Pictures(uploads=sum(sizes) - 1))
    with TestClient(make_app(session), base_url=BASE, raise_server_exceptions=False) as client:
        page = Page(session, client)
        first, second, third = (page.upload(png(seed=seed))["id"] for seed in range(3))
        kept = [picture["id"] for picture in client.get("/api/state").json()["pictures"]]
        assert kept == [second, third]
        answer = client.post("/api/encodings", json={"model": "vit", "picture": first, "size": 32})
        assert "no longer kept" in error_of(answer, 410)


def test_the_same_request_gives_the_same_encoding_without_another_pass(page: Page, monkeypatch):
    first = page.encode("vit")
    monkeypatch.setattr("vitrail.web.session.encode", lambda *args: pytest.fail("encoded twice"))
    assert page.encode("vit") == first


def test_least_recently_used_encodings_are_forgotten(shown):
    session = Session(shown, Pictures(), encoded=1)
    with TestClient(make_app(session), base_url=BASE, raise_server_exceptions=False) as client:
        page = Page(session, client)
        first, second = page.encode("vit", 32), page.encode("vit", 40)
        assert page.get(first, "row").status_code == 200
        third = page.encode("vit", 48)
        assert "no longer kept" in error_of(page.get(second, "row"), 410)
        assert page.get(first, "row").status_code == page.get(third, "row").status_code == 200
        assert page.encode("vit", 40) == second | {"seconds": page.encode("vit", 40)["seconds"]}


@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ("row?layer=3", 404, "there is no layer 3"),
        ("row?layer=-4", 404, "there is no layer -4"),
        ("row?query=67", 404, "there is no token 67"),
        ("row?query=-1", 404, "there is no token -1"),
        ("row?heads=2", 404, "from 0 to 1"),
        ("row?heads=-1", 404, "from 0 to 1"),
        ("row?heads=some", 400, "mean, max, all"),
        # More digits than int() takes.
        (f"row?heads={'9' * 5000}", 400, "mean, max, all"),
        ("row?layer=first", 400, "whole number"),
        ("row?query=1e3", 400, "whole number"),
        ("row?query=99999999999999999999", 400, "whole number"),
        ("thumbs?query=70", 404, "there is no token 70"),
        ("export.npz?layer=7", 404, "there is no layer 7"),
        ("map?kind=magic", 400, "rollout"),
        ("map?kind=rollout&query=67", 404, "there is no token 67"),
        ("features?layer=-9", 404, "depth -9"),
    ],
)
def test_what_there_is_not_gets_a_sentence(page: Page, what, status, words):
    assert words in error_of(page.get(page.encode("vit"), what), status)


def test_a_model_without_attention_says_so(page: Page):
    found = page.encode("convnext", 64)
    for what in ("row", "reach", "thumbs", "map?kind=rollout", "export.npz"):
        error_of(page.get(found, what), 404)
    assert page.get(found, "features").status_code == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "JSON"),
        (b"[]", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 10_000, "JSON"),
        (b"{}", "pixels"),
        (b'{"model": "vit", "picture": "x", "size": "48"}', "pixels"),
        (b'{"model": "vit", "picture": "x", "size": true}', "pixels"),
    ],
)
def test_requests_for_encodings_that_make_no_sense(page: Page, body, words):
    assert words in error_of(page.client.post("/api/encodings", content=body), 400)


def test_unknown_models_pictures_and_sizes(page: Page):
    picture = page.upload()["id"]

    def ask(model: str, picture: str, size: int):
        return page.client.post("/api/encodings", json={"model": model, "picture": picture, "size": size})

    assert "there are dinov2, vit" in error_of(ask("resnet", picture, 48), 404)
    assert "choose or drop" in error_of(ask("vit", "0" * 16, 48), 410)
    for size in (0, -3, 15, 100_000):
        assert "from 16 to 2048" in error_of(ask("vit", picture, size), 400)
    strip = page.upload(png(8, 8000))["id"]
    error = error_of(ask("vit", strip, 224), 400)
    assert "take a size of at most" in error
    largest = int(error.rpartition(" ")[2])
    assert 16 <= largest < 224
    assert ask("vit", strip, 16).status_code == 200


def test_a_failure_inside_is_a_sentence_and_the_server_goes_on(page: Page, monkeypatch):
    found = page.encode("vit")
    monkeypatch.setattr("vitrail.web.answers.layer_row", lambda *args: 1 / 0)
    assert "ZeroDivisionError" in error_of(page.get(found, "row"), 500)
    monkeypatch.undo()
    assert page.get(found, "row").status_code == 200


def test_requests_at_once_are_not_mixed_up(page: Page):
    """Two pictures encoded, and rows asked of both, all at the same time: each answer is that of a request alone."""
    wide, tall = page.upload(png(), "wide")["id"], page.upload(png(90, 50, seed=1), "tall")["id"]
    bodies = [{"model": m, "picture": p, "size": s} for m in ("vit", "beit") for p in (wide, tall) for s in (32, 48)]
    with ThreadPoolExecutor(8) as pool:
        encoded = list(pool.map(lambda body: page.client.post("/api/encodings", json=body).json(), bodies))
        asked = [(found, query) for found in encoded for query in (0, 3, 9)]
        together = list(pool.map(lambda a: page.get(a[0], f"row?layer=1&query={a[1]}&heads=all").content, asked))
    fresh = Session(list(page.session.models.values()), page.session.pictures)
    with TestClient(make_app(fresh), base_url=BASE, raise_server_exceptions=False) as client:
        for body, found in zip(bodies, encoded, strict=True):
            alone = client.post("/api/encodings", json=body).json()
            assert {**alone, "seconds": 0} == {**found, "seconds": 0}
        for (found, query), content in zip(asked, together, strict=True):
            address = f"/api/encodings/{found['id']}/row?layer=1&query={query}&heads=all"
            assert client.get(address).content == content


def test_rows_do_not_wait_for_an_encoding(page: Page, monkeypatch):
    found = page.encode("vit")
    picture = page.upload(png(seed=9))["id"]
    started, finish = threading.Event(), threading.Event()
    encode = page.session.encode

    def slow(*args):
        started.set()
        assert finish.wait(20)
        return encode(*args)

    monkeypatch.setattr(page.session, "encode", slow)
    with ThreadPoolExecutor(1) as pool:
        body = {"model": "vit", "picture": picture, "size": 48}
        later = pool.submit(page.client.post, "/api/encodings", json=body)
        assert started.wait(20)
        assert maps_of(page.get(found, "row?layer=0&query=2")).shape == (6, 11)
        assert page.client.get("/api/health").status_code == 200
        finish.set()
        assert later.result().status_code == 200


def test_a_lane_that_is_full_refuses_and_recovers():
    async def crowd() -> list[object]:
        lane, gate = Lane("test", room=3), threading.Event()
        waiting = [asyncio.create_task(lane.run(gate.wait)) for _ in range(5)]
        await asyncio.sleep(0.05)
        gate.set()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        outcomes.append(await lane.run(lambda: "again"))
        lane.close()
        with pytest.raises(Refused):
            await lane.run(lambda: None)
        return outcomes

    outcomes = asyncio.run(crowd())
    assert outcomes[:3] == [True] * 3
    assert [error.status for error in outcomes[3:5] if isinstance(error, Refused)] == [503, 503]
    assert outcomes[5] == "again"


def test_the_session_changes_at_every_start(shown):
    assert Session(shown, Pictures()).id != Session(shown, Pictures()).id


def test_large_matrices_are_refused_with_a_size_that_will_do(page: Page, monkeypatch):
    found = page.encode("vit", 64)
    monkeypatch.setattr("vitrail.web.answers.MAX_SQUARES", 100_000)
    for kind in ("rollout", "relevance", "grad_rollout"):
        error = error_of(page.get(found, f"map?kind={kind}"), 400)
        smaller = page.encode("vit", int(error.rpartition(" ")[2]))
        assert page.get(smaller, f"map?kind={kind}").status_code == 200
    assert page.get(found, "map?kind=grad_cam").status_code == 200


def test_a_crowd_of_uploads_is_refused(page: Page, monkeypatch):
    monkeypatch.setattr(routes, "UPLOADS", 0)
    assert "arriving" in error_of(page.client.post("/api/pictures", content=png()), 503)


def test_a_body_that_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr(guard, "_RECEIVE_SECONDS", 0.05)
    stalled = Request({"type": "http", "method": "POST", "headers": []}, receive=asyncio.Event().wait)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="did not arrive") as refusal:
        asyncio.run(guard.read_body(stalled, 100, "the picture"))
    assert refusal.value.status == 408


def test_the_original_is_given_back_within_bounds(page: Page, monkeypatch):
    picture = page.upload(turned(6))["id"]
    answer = page.client.get(f"/api/pictures/{picture}/image")
    assert Image.open(io.BytesIO(answer.content)).size == (40, 72)
    monkeypatch.setattr(routes, "LONGEST", 36)
    answer = page.client.get(f"/api/pictures/{picture}/image")
    assert Image.open(io.BytesIO(answer.content)).size == (20, 36)
    error_of(page.client.get("/api/pictures/0000/image"), 410)
