"""A page of its own: one HTML file that loads nothing and runs nothing, light or dark as its reader has it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vitrail.durable import write_result
from vitrail.explanations.paint import ATTENTION_COLOURS
from vitrail.jobs.report.html import text

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page may load nothing and run nothing, whatever a class or file name holds."""


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page.

    Args:
        title: above it, and in the browser's tab.
        parts: what stands below, already HTML; empty ones are left out.
    """
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{text(title)}</title><style>\n{style}</style></head>\n<body><main>\n"
        f"<header>{_mark()}<h1>{text(title)}</h1></header>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main><footer>Written by Vitrail.</footer></body></html>\n"
    )


def write_page(page: str, path: Path) -> Path:
    """Write a page; its folder is made when missing, and no reader ever sees half of it.

    Raises:
        VitrailError: it cannot be written.
    """
    # File names may hold bytes that are no text; a question mark is shown for each.
    content = page.encode("utf-8", errors="replace")
    write_result(path, lambda temporary: temporary.write_bytes(content))
    return path


def colour_scale(low: str = "no attention", high: str = "most attention") -> str:
    """The colours of maps, from nothing to most, with words at either end."""
    stops = ", ".join(_colour(i / 8) for i in range(9))
    bar = f'<i style="background: linear-gradient(90deg, {stops})"></i>'
    return f'<p class="scale">{text(low)} {bar} {text(high)}</p>'


def _mark() -> str:
    """Nine patches of glass."""
    shares = (0.12, 0.3, 0.55, 0.22, 0.78, 0.45, 0.62, 0.35, 0.9)
    panes = "".join(
        f'<rect x="{i % 3 * 11}" y="{i // 3 * 11}" width="10" height="10" rx="1.5" fill="{_colour(share)}"/>'
        for i, share in enumerate(shares)
    )
    return f'<svg class="mark" viewBox="0 0 32 32" aria-hidden="true">{panes}</svg>'


def _colour(share: float) -> str:
    red, green, blue, _ = ATTENTION_COLOURS(share, bytes=True)
    return f"#{red:02x}{green:02x}{blue:02x}"
