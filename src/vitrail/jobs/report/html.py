"""Pieces of HTML from plain values. Everything that comes from the user is escaped here and nowhere else."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from PIL import Image


def text(value: object) -> str:
    """A value as text that is safe in an element and in a quoted attribute."""
    return escape(spoken(value), quote=True)


def spoken(value: object) -> str:
    """A setting as a person writes it: no quotes or brackets, few digits, a dash for none."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return re.sub(r"e([+-])0+", r"e\1", f"{value:.6g}")
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={spoken(item)}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(spoken(item) for item in value) or "–"
    return str(value)


def section(heading: str, *parts: str, lead: str = "") -> str:
    """A section with its heading, one sentence below it, and what it holds."""
    sentence = f'<p class="lead">{text(lead)}</p>' if lead else ""
    return f"<section><h2>{text(heading)}</h2>{sentence}{''.join(parts)}</section>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str, numbers: Sequence[int] = ()) -> str:
    """A table that scrolls sideways on a narrow screen.

    Args:
        heads: titles of the columns.
        rows: cells, already HTML.
        kind: its class in the style sheet.
        numbers: columns set flush right.
    """
    marks = ['class="number"' if i in numbers else "" for i in range(len(heads))]
    top = "".join(f'<th scope="col" {mark}>{text(head)}</th>' for head, mark in zip(heads, marks, strict=True))
    lines = (
        "<tr>" + "".join(f"<td {mark}>{cell}</td>" for cell, mark in zip(row, marks, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def definitions(values: Mapping[str, object]) -> str:
    """Names and values in two columns."""
    pairs = (f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="pairs">{"".join(pairs)}</dl>'


def picture(image: Image.Image, alt: str) -> str:
    """An image inside the page, as WebP: photographs are small in it and clear parts stay clear."""
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=86, method=4)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    sharp = ' class="pixels"' if max(image.size) < 100 else ""
    return (
        f'<img{sharp} src="data:image/webp;base64,{data}" alt="{text(alt)}" '
        f'width="{image.width}" height="{image.height}">'
    )
