"""The page in a real Chromium, against a real server with a tiny model."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.web.running import Running
from vitrail.explanations import AttentionRecord

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")

CHROMIUM = Path("/usr/bin/chromium")
SIZES = {"wide.png": (96, 144), "tall.png": (128, 64), "square.png": (64, 64)}
Page = sync_api.Page
READ_HEAT = """() => {
  const canvas = document.querySelector(".heat");
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return {shape: [canvas.height, canvas.width], red: Array.from(data.filter((_, i) => i % 4 === 0))};
}"""


class Visit:
    """A page that is open, with what it complained of and where it went."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, **state: object) -> Visit:
        self.page.goto(self.address + "#" + "&".join(f"{name}={value}" for name, value in state.items()))
        self.settle()
        return self

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited in vain: {what}"
            self.page.wait_for_timeout(10)

    def settle(self) -> None:
        # The page's policy forbids evaluated strings, which wait_for_function would need.
        self.until(lambda: self.page.evaluate("() => window.vitrail !== undefined && vitrail.settled"), "a map")

    @property
    def state(self) -> dict[str, Any]:
        return self.page.evaluate("() => vitrail.state")

    def views(self) -> list[dict[str, Any]]:
        return self.page.evaluate("() => vitrail.views")

    def hover(self, row: int, column: int, number: int = 0) -> None:
        """Point at the middle of a patch."""
        box = self.page.locator(".frame").nth(number).bounding_box()
        assert box is not None
        rows, columns = self.views()[number]["grid"]
        x, y = (column + 0.5) * box["width"] / columns, (row + 0.5) * box["height"] / rows
        self.page.mouse.move(box["x"] + x, box["y"] + y)


@pytest.fixture(scope="module")
def pictures_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three shapes, every patch of its own colour."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        coarse = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse.repeat(8, 0).repeat(8, 1)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def server(pictures_folder: Path) -> Iterator[Running]:
    running = Running(pictures_folder)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")  # while Playwright runs, its thread has an event loop: others could not start theirs
def browser() -> Iterator[sync_api.Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: sync_api.Browser, server: Running) -> Iterator[Visit]:
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    yield Visit(page, server.address)
    page.close()


def picture_id(server: Running, name: str) -> str:
    assert server.session is not None
    return next(one["id"] for one in server.session.pictures.state() if one["name"] == name)


def encoding_of(server: Running, view: dict[str, Any]) -> Any:
    assert server.session is not None
    return server.session.encoding(view["painted"].split("/")[0])


@pytest.mark.parametrize(
    ("name", "ratio", "zoom"),
    [("wide.png", 1, 1.0), ("tall.png", 1, 1.0), ("wide.png", 2, 1.0), ("tall.png", 2, 1.25), ("wide.png", 1, 1.5)],
)
def test_the_hovered_patch_is_the_one_under_the_pointer(
    browser: sync_api.Browser, server: Running, name: str, ratio: int, zoom: float
) -> None:
    # What a browser's zoom is to a page: fewer of larger pixels.
    viewport: Any = {"width": round(1280 / zoom), "height": round(800 / zoom)}
    page = browser.new_page(viewport=viewport, device_scale_factor=ratio * zoom)
    visit = Visit(page, server.address).open(picture=picture_id(server, name))
    height, width = SIZES[name]
    grid = visit.views()[0]["grid"]
    assert grid[0] / grid[1] == height / width
    box = page.locator(".frame").first.bounding_box()
    assert box is not None and box["width"] / box["height"] == pytest.approx(width / height, rel=0.01)
    for row, column in [(0, 0), (grid[0] - 1, grid[1] - 1), (grid[0] - 1, 0), (2, 5)]:
        # Two pixels inside a corner of the patch: one off would already be the neighbour.
        x = box["x"] + column * box["width"] / grid[1] + 2
        page.mouse.move(x, box["y"] + (row + 1) * box["height"] / grid[0] - 2)
        page.wait_for_timeout(30)
        assert visit.state["query"] == f"{row}.{column}"
        place = row * grid[1] + column
        assert int(np.argmax(visit.views()[0]["values"])) == place  # a patch is most like itself
    page.close()


@pytest.mark.parametrize("name", ["wide.png", "tall.png"])
def test_similarity_is_that_of_numpy(visit: Visit, server: Running, name: str) -> None:
    visit.open(picture=picture_id(server, name), query="3.4", pinned=1)
    (view,) = visit.views()
    patches = encoding_of(server, view).recall.tokens.patches[0].float().numpy()
    unit = patches / np.linalg.norm(patches, axis=1, keepdims=True)
    expected = unit @ unit[3 * view["grid"][1] + 4]
    np.testing.assert_allclose(view["values"], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "query", "place"), [("wide.png", "t0", 0), ("tall.png", "t2", 2), ("tall.png", "2.5", None)]
)
def test_the_brightest_place_of_the_canvas_is_that_of_numpy(
    visit: Visit, server: Running, name: str, query: str, place: int | None
) -> None:
    visit.open(
        picture=picture_id(server, name), query=query, pinned=1, map="attention", layer=1, head=1, look="patches",
        colours="grey", opacity=100,
    )  # fmt: skip
    (view,) = visit.views()
    rows, columns = view["grid"]
    number = 3 + 2 * columns + 5 if place is None else place
    row = encoding_of(server, view).recall.rows(1, (number,)).maps()[0, 1, 0].numpy()
    heat = visit.page.evaluate(READ_HEAT)
    assert tuple(heat["shape"]) == row.shape == (rows, columns)
    assert np.argmax(heat["red"]) == np.argmax(row)
    np.testing.assert_allclose(heat["red"], 255 * row.ravel() / row.max(), atol=2)


def test_every_pointer_move_paints_at_once_and_says_how_long_it_took(visit: Visit) -> None:
    visit.open()
    for row, column in [(1, 1), (2, 3), (5, 6)]:
        visit.hover(row, column)
    visit.until(lambda: len(visit.page.evaluate("() => vitrail.timings")) >= 3, "timings")
    assert max(timing["milliseconds"] for timing in visit.page.evaluate("() => vitrail.timings")) < 1000
    assert visit.page.evaluate("() => document.documentElement.dataset.painted") == visit.views()[0]["painted"]


def test_a_click_pins_and_a_second_one_lets_go(visit: Visit) -> None:
    visit.open()
    visit.hover(2, 3)
    visit.page.mouse.down()
    visit.page.mouse.up()
    visit.hover(5, 6)
    assert visit.state["query"] == "2.3" and visit.state["pinned"] == 1
    visit.hover(2, 3)
    visit.page.mouse.down()
    visit.page.mouse.up()
    visit.hover(5, 6)
    assert visit.state["query"] == "5.6" and visit.state["pinned"] == 0


def test_the_keyboard_alone_does_it(visit: Visit) -> None:
    visit.open(query="3.3", pinned=1)
    page = visit.page
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.className") == "frame":
            break
    assert page.evaluate("() => document.activeElement.className") == "frame"
    for key, query in [("ArrowDown", "4.3"), ("ArrowRight", "4.4"), ("Shift+ArrowUp", "0.4"), ("ArrowLeft", "0.3")]:
        page.keyboard.press(key)
        assert visit.state["query"] == query
    for key, name, value in [
        ("2", "map", "attention"), (",", "layer", 1), ("h", "head", "0"), ("m", "head", "mean"), ("r", "query", "t1"),
        ("c", "query", "t0"), ("s", "look", "patches"), ("-", "opacity", 60), ("Escape", "pinned", 0),
    ]:  # fmt: skip
        page.keyboard.press(key)
        visit.settle()
        assert visit.state[name] == value, key
    assert "/attention/1/0/mean" in visit.views()[0]["painted"]
    page.keyboard.press("?")
    assert page.locator("#sheet").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#sheet").is_visible()


def test_keys_do_not_take_a_register_for_the_class_token(visit: Visit) -> None:
    visit.open(model="registers", map="attention", query="3.3", pinned=1)
    visit.page.locator(".frame").first.focus()
    for key, query in [("c", "3.3"), ("r", "t0"), ("r", "t1"), ("r", "t2"), ("r", "t3"), ("r", "t0"), ("c", "t0")]:
        visit.page.keyboard.press(key)
        visit.settle()
        assert visit.state["query"] == query
    assert "goes to registers" in visit.page.locator("#asked").inner_text()


def test_every_control_is_reached_and_named(visit: Visit) -> None:
    visit.open(map="attention", picture2="")
    page = visit.page
    seen: list[str] = []
    for _ in range(80):
        page.keyboard.press("Tab")
        name = page.evaluate(
            """() => {
              const at = document.activeElement;
              const label = at.getAttribute("aria-label") || at.labels?.[0]?.textContent || at.textContent;
              return at === document.body ? "" : `${at.id || at.className || at.tagName}:${label.trim()}`;
            }"""
        )
        if not name or name in seen:
            break
        seen.append(name)
        assert name.split(":", 1)[1], f"{name} has no label"
        assert page.evaluate("() => document.activeElement.matches(':focus-visible')")
    reached = {name.split(":")[0] for name in seen}
    expected = {"model", "picture", "file", "beside", "size", "copy", "png", "npz", "theme", "help", "frame", "chip"}
    expected |= {"opacity", "colours", "look", "scale", "top", "map-attention", "layer", "head-mean", "tab-heads"}
    assert expected <= reached, expected - reached


def test_rapid_moves_never_show_a_stale_row(visit: Visit) -> None:
    visit.page.add_init_script(
        """window.painted = [];
        const put = CanvasRenderingContext2D.prototype.putImageData;
        CanvasRenderingContext2D.prototype.putImageData = function (...rest) {
          const shown = [vitrail.views[0]?.painted, vitrail.state.query];
          if (this.canvas.className.startsWith("heat")) window.painted.push(shown);
          return put.apply(this, rest);
        };"""
    )
    delays = iter([0.25, 0.05, 0.2, 0.0, 0.1] * 20)
    asked: list[str] = []

    def late(route: sync_api.Route) -> None:
        asked.append(route.request.url)
        time.sleep(next(delays))
        route.continue_()

    visit.open(map="attention", panel="norms", query="0.0")
    visit.page.route("**/row?*", late)
    columns = visit.views()[0]["grid"][1]
    prefix = 3
    path = [(i % 8, (3 * i) % 8) for i in range(1, 25)]
    for row, column in path:
        visit.hover(row, column)
    visit.settle()
    row, column = path[-1]
    assert visit.views()[0]["painted"].endswith(f"/attention/2/{prefix + row * columns + column}/mean")
    assert len(asked) < len(path)  # those between were dropped
    painted = visit.page.evaluate("() => window.painted")
    assert painted
    for key, query in painted:
        row, column = map(int, query.split("."))
        assert key.split("/")[3] == str(prefix + row * columns + column), "a row was painted under another query"


def test_broken_and_huge_uploads_get_a_message(visit: Visit, tmp_path: Path) -> None:
    visit.open()
    before = visit.state["picture"]
    message = visit.page.locator("#message")
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x1a\n no picture"}
    visit.page.locator("#file").set_input_files(files=[broken])
    message.wait_for(state="visible")
    assert "broken.png" in message.inner_text()
    message.get_by_role("button").click()
    assert not message.is_visible()
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(65 << 20)
    visit.page.locator("#file").set_input_files(huge)
    message.wait_for(state="visible")
    assert "huge.png" in message.inner_text() and "larger" in message.inner_text()
    assert visit.state["picture"] == before
    assert visit.page.locator("#banner").is_hidden()


def upload(visit: Visit, name: str = "mine.png", size: tuple[int, int] = (72, 120)) -> np.ndarray:
    """Choose a file of random patches; wait until it is shown."""
    pixels = np.random.default_rng(5).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    before = visit.state["picture"]
    picture = {"name": name, "mimeType": "image/png", "buffer": file.getvalue()}
    visit.page.locator("#file").set_input_files(files=[picture])
    visit.until(lambda: visit.state["picture"] != before, "the upload")
    visit.settle()
    return pixels


def test_a_killed_server_gets_a_banner_and_is_taken_up_again(browser: sync_api.Browser, pictures_folder: Path) -> None:
    server = Running(pictures_folder)
    server.start()
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    visit = Visit(page, server.address).open(panel="norms")
    upload(visit)
    page.keyboard.press("2")
    visit.settle()
    visit.page.mouse.move(5, 5)
    server.stop()
    visit.hover(2, 2)  # asks, and gets no answer
    page.locator("#banner").wait_for(state="visible")
    assert "gone" in page.locator("#banner").inner_text()
    server.start()
    page.locator("#banner").wait_for(state="hidden", timeout=15_000)
    visit.settle()
    visit.hover(4, 4)
    visit.settle()
    # Another session, yet the uploaded picture and the query are there.
    assert visit.views()[0]["painted"].split("/")[1] == "attention"
    assert encoding_of(server, visit.views()[0]).size == (64, 104)
    page.close()
    server.stop()


def test_what_the_server_forgot_is_made_again(visit: Visit, server: Running) -> None:
    visit.open(panel="norms", map="attention", query="1.1", pinned=1)
    upload(visit)
    assert server.session is not None
    server.session._encodings.clear()
    server.session.pictures._known.pop(visit.state["picture"])
    visit.page.keyboard.press("ArrowDown")
    visit.until(lambda: len(server.session._encodings) > 0, "another encoding")
    visit.settle()
    assert visit.state["query"] == "2.2" and visit.views()[0]["painted"].endswith("/mean")
    assert visit.page.locator("#message").is_hidden()


def test_a_picture_dropped_on_an_empty_page(browser: sync_api.Browser, tmp_path: Path) -> None:
    server = Running(tmp_path)
    server.start()
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    visit = Visit(page, server.address)
    page.goto(server.address)
    page.locator("#views.empty").wait_for()
    page.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(160, 80);
          canvas.getContext("2d").fillRect(20, 20, 50, 30);
          const file = new File([await canvas.convertToBlob()], "drawn.png", {type: "image/png"});
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(file);
          for (const type of ["dragenter", "dragover", "drop"]) {
            document.body.dispatchEvent(new DragEvent(type, {dataTransfer, bubbles: true, cancelable: true}));
          }
        }"""
    )
    visit.settle()
    assert visit.views()[0]["grid"] == [8, 16]
    assert page.locator("#drop").is_hidden() and page.locator("#views.empty").count() == 0
    assert visit.complaints == []
    page.close()
    server.stop()


def test_nothing_leaves_the_machine_and_nothing_complains(visit: Visit, server: Running) -> None:
    visit.open(picture=picture_id(server, "wide.png"), model2="m1")
    for number in range(1, 10):
        visit.page.keyboard.press(str(number))
        visit.settle()
    for panel in ("reach", "strip", "norms", "heads"):
        visit.page.locator(f"#tab-{panel}").click()
        visit.page.wait_for_timeout(250)
    visit.page.locator("#theme").click()
    upload(visit)
    assert visit.complaints == []
    assert all(url.startswith((server.address, "blob:")) for url in visit.requests), visit.requests


@pytest.mark.parametrize("name", ["swin", "convnext"])
def test_models_without_one_grid_or_without_attention(visit: Visit, name: str) -> None:
    visit.open(model=name, map="attention", query="1.2", pinned=1)
    if name == "swin":
        assert "/attention/3/" in visit.views()[0]["painted"]
        visit.page.get_by_role("button", name="Layer 1, head 2", exact=True).click()
        visit.settle()
        assert "/attention/0/" in visit.views()[0]["painted"]
    else:
        assert "needs attention layers" in visit.page.locator(".note").first.inner_text()
    for number in range(1, 10):
        visit.page.keyboard.press(str(number))
        visit.settle()
    visit.page.keyboard.press("1")
    visit.settle()
    assert visit.views()[0]["values"]


def test_the_address_restores_the_state(visit: Visit, browser: sync_api.Browser, server: Running) -> None:
    visit.open(picture=picture_id(server, "wide.png"))
    page = visit.page
    visit.hover(3, 7)
    visit.page.mouse.down()
    visit.page.mouse.up()
    page.keyboard.press("2")
    page.keyboard.press(",")
    page.keyboard.press("h")
    page.locator("#colours").select_option("viridis")
    page.locator("#scale").select_option("clipped")
    page.locator("#top").fill("4")
    page.locator("#tab-reach").click()
    visit.settle()
    page.wait_for_timeout(300)
    other = Visit(browser.new_page(), page.url)
    other.page.goto(page.url)
    other.settle()
    assert other.state == visit.state
    assert other.views() == [{**visit.views()[0], "milliseconds": None}]
    page.reload()
    visit.settle()
    assert visit.state == other.state
    other.page.close()


def test_the_best_match_in_a_second_picture(visit: Visit, server: Running) -> None:
    wide = picture_id(server, "wide.png")
    visit.open(picture=wide, picture2=wide, query="2.7", pinned=1)
    first, second = visit.views()
    assert (second["match"]["row"], second["match"]["column"]) == (2, 7)
    assert second["match"]["value"] == pytest.approx(1, abs=2e-3)
    assert first["values"] == second["values"]
    visit.page.locator("#beside").select_option(f"p:{picture_id(server, 'tall.png')}")
    visit.settle()
    source, target = (encoding_of(server, view).recall.tokens.patches[0].float().numpy() for view in visit.views())
    columns, other_columns = (view["grid"][1] for view in visit.views())
    expected = target @ source[2 * columns + 7] / np.linalg.norm(target, axis=1)
    match = visit.views()[1]["match"]
    assert match["row"] * other_columns + match["column"] == np.argmax(expected)


def test_a_head_of_the_grid_and_of_the_plot_goes_onto_the_picture(visit: Visit) -> None:
    visit.open(query="1.1", pinned=1)
    visit.page.get_by_role("button", name="Layer 2, head 1", exact=True).click()
    visit.settle()
    assert {name: visit.state[name] for name in ("map", "layer", "head")} == {
        "map": "attention",
        "layer": 1,
        "head": "0",
    }
    visit.page.locator("#tab-reach").click()
    dot = visit.page.locator('.head[data-layer="2"][data-head="1"]')
    dot.hover()
    assert visit.page.locator("#panel-reach output").inner_text().startswith("Layer 3, head 2: ")
    dot.click()
    visit.settle()
    assert (visit.state["layer"], visit.state["head"]) == (2, "1")


def test_what_is_saved(visit: Visit, server: Running, tmp_path: Path) -> None:
    visit.open(query="1.1", pinned=1, map="attention", layer=1)
    upload(visit, size=(72, 120))
    with visit.page.expect_download() as download:
        visit.page.locator("#png").click()
    download.value.save_as(tmp_path / "map.png")
    assert Image.open(tmp_path / "map.png").size == (120, 72)  # the picture's own, not the model's 104 × 64
    with visit.page.expect_download() as download:
        visit.page.locator("#npz").click()
    download.value.save_as(tmp_path / "row.npz")
    record = AttentionRecord.from_npz(tmp_path / "row.npz")
    assert record.layers == (1,) and record[1].grid == tuple(visit.views()[0]["grid"])
    assert record[1].weights.sum(-1).numpy() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1600, 1000), (390, 844)])
def test_it_fits_the_screen(browser: sync_api.Browser, server: Running, width: int, height: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": height})
    visit = Visit(page, server.address).open(picture=picture_id(server, "tall.png"))
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    stage = page.locator(".frame").first.bounding_box()
    assert stage is not None and stage["x"] >= 0 and stage["x"] + stage["width"] <= width
    if width > 1020:
        assert page.evaluate("() => document.documentElement.scrollHeight") <= height
        looks = page.locator(".looks").bounding_box()
        assert looks is not None and looks["y"] + looks["height"] <= height
    assert visit.complaints == []
    page.close()
