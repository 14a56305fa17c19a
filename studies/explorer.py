"""The explorer page in a real browser: its pictures in the docs, and how long a map takes to reach the screen.

Run: python studies/explorer.py   (extras: demo, web, dev; Chromium: apt-get install chromium)

Starts ``vitrail explore`` with the real DINOv2 ViT-S/14 on photographs of scikit-image, drives Chromium through it,
writes docs/images/explorer-light.png and explorer-dark.png, and prints at 518 × 518 (37 × 37 patches): seconds from
the drop of a picture to its first map, and the milliseconds from an event to the painted map over 100 events.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from skimage import data

IMAGES = Path(__file__).parent.parent / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu"]
MOVES = 100
MOST_BYTES = 480_000
SETTLED = "() => window.vitrail !== undefined && vitrail.settled"


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """``vitrail explore`` on a free port; gives its address."""
    command = [sys.executable, "-m", "vitrail", "explore", "vit_small_patch14_dinov2", str(folder)]
    process = subprocess.Popen([*command, "--port", "0", "--no-browser"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield found[0]
                return
        raise RuntimeError("the server did not start")
    finally:
        process.terminate()
        process.wait()


def settle(page: Page) -> None:
    """Wait until every picture shows the map that is wanted."""
    until = time.monotonic() + 120
    while not page.evaluate(SETTLED):
        if time.monotonic() > until:
            raise TimeoutError("no map after two minutes")
        page.wait_for_timeout(20)


def first_map(page: Page) -> float:
    """Seconds from the drop of a picture that the server has not seen to its first map."""
    file = io.BytesIO()
    Image.fromarray(data.astronaut()[:, ::-1]).save(file, "PNG")
    before = page.evaluate("() => vitrail.views[0].painted")
    picture = {"name": "mirrored.png", "mimeType": "image/png", "buffer": file.getvalue()}
    started = time.monotonic()
    page.locator("#file").set_input_files(files=[picture])
    while page.evaluate("() => vitrail.views[0].painted") in ("", before):
        page.wait_for_timeout(10)
    return time.monotonic() - started


def similarity_moves(page: Page) -> list[float]:
    """Milliseconds from pointer event to painted map, over a walk that changes the patch at every step."""
    box = page.locator(".frame").first.bounding_box()
    assert box is not None
    count = len(page.evaluate("() => vitrail.timings"))
    for i in range(MOVES):
        row, column = (i * 7) % 37, (i * 11) % 37
        page.mouse.move(box["x"] + (column + 0.5) * box["width"] / 37, box["y"] + (row + 0.5) * box["height"] / 37)
        page.wait_for_timeout(30)
    return [timing["milliseconds"] for timing in page.evaluate("() => vitrail.timings")[count:]]


def attention_layers(page: Page) -> list[float]:
    """Milliseconds from the key that changes the layer to the painted row, each row new to the browser."""
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    settle(page)
    found = []
    for i in range(MOVES):
        if i % 11 == 0:  # all layers of this query have been seen: another one
            page.keyboard.press("ArrowDown")
            settle(page)
            page.wait_for_timeout(300)
        count = len(page.evaluate("() => vitrail.timings"))
        page.keyboard.press("," if (i // 11) % 2 == 0 else ".")
        settle(page)
        page.wait_for_timeout(40)
        found += [timing["milliseconds"] for timing in page.evaluate("() => vitrail.timings")[count:]]
    return found


def report(name: str, values: list[float]) -> None:
    """One line of quantiles."""
    p50, p95 = np.percentile(values, [50, 95])
    print(f"{name}: median {p50:.1f} ms, p95 {p95:.1f} ms, worst {max(values):.1f} ms over {len(values)}")


def save_small(path: Path) -> None:
    """Pack a picture tightly; in 256 colours where that is not enough."""
    picture = Image.open(path).convert("RGB")
    picture.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        palette = picture.quantize(256, kmeans=2)
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def main() -> None:
    """Photograph and measure."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        for name, load in {"astronaut": data.astronaut, "cat": data.chelsea}.items():
            Image.fromarray(load()).save(Path(folder) / f"{name}.png")
        with server(Path(folder)) as address:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            page.goto(address)
            settle(page)
            print(f"drop to first map: {first_map(page):.2f} s")
            page.goto(f"{address}#panel=reach")  # the head grid asks for all layers at once; here each row is new
            page.reload()
            settle(page)
            report("similarity, pointer to paint", similarity_moves(page))
            report("attention, another layer", attention_layers(page))
            pictures = {one["name"]: one["id"] for one in page.request.get(f"{address}api/state").json()["pictures"]}
            views = {
                "light": f"#picture={pictures['astronaut.png']}&map=attention&query=t0&pinned=1",
                "dark": f"#picture={pictures['astronaut.png']}&picture2={pictures['cat.png']}&query=7.14&pinned=1",
            }
            for scheme, view in views.items():
                page = browser.new_page(viewport={"width": 1280, "height": 720}, color_scheme=scheme)
                page.goto(address + view)
                settle(page)
                page.wait_for_timeout(1500)
                page.screenshot(path=IMAGES / f"explorer-{scheme}.png")
            browser.close()
    for scheme in ("light", "dark"):
        path = IMAGES / f"explorer-{scheme}.png"
        save_small(path)
        print(path, f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
