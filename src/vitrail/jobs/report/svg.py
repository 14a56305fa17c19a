"""Matplotlib figures as inline SVG that takes its colours and its typeface from the page."""

from __future__ import annotations

import io
import re
from html import escape

import matplotlib
from matplotlib.figure import Figure

from vitrail.explanations.charts import ChartColours

INK, MUTED, RULE, ACCENT, SECOND, ON_ACCENT = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
"""Stand-ins: each becomes a variable of the page's style sheet, so that a figure follows light and dark."""

PAGE = ChartColours(INK, MUTED, RULE, ACCENT, SECOND, paper=None)
"""The same for the charts of heads and tokens."""

VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    ON_ACCENT: "var(--on-accent)",
}


def to_svg(figure: Figure, name: str, label: str) -> str:
    """A figure as an ``<svg>`` element that fits the width it is given.

    Args:
        figure: drawn in the stand-in colours above, on a clear background.
        name: unique on the page; put before every id, since the ids of matplotlib's figures are all alike.
        label: what is to be seen, for those who cannot see it.
    """
    buffer = io.StringIO()
    # The salt makes the ids of clip paths the same on every run: equal runs, equal reports.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    # The style block would apply to the whole page.
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--sans)", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, variable)
    body = re.sub(r"\n\s*", "\n", body)
    width = float(box.group(1).split()[2])
    return (
        f'<svg class="plot" role="img" aria-label="{escape(label)}" viewBox="{box.group(1)}" '
        f'style="max-width: {width / 72 * 96:.0f}px">{body}</svg>'
    )
