"""The page: its sections in the order in which a reader wants them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from vitrail.explanations.figures import to_image, two_panel
from vitrail.explanations.paint import picture_of
from vitrail.jobs.report.confusion import draw_confusion, most_confused
from vitrail.jobs.report.curves import draw_curves
from vitrail.jobs.report.document import colour_scale, document, write_page
from vitrail.jobs.report.html import definitions, picture, section, table, text
from vitrail.jobs.report.summary import FirstBatch, Mistake, RunSummary
from vitrail.jobs.report.svg import to_svg

NAME = "report.html"
THUMBNAIL = 224
MISTAKE_SIDE = 2.0
"""Inches of a panel at the figures' 200 dots per inch: sharp on a screen of double density."""
LISTED = 6
"""Warnings that are shown without a click."""


def write_report(run: RunSummary, out: Path) -> Path:
    """Write ``report.html``, one file with everything in it, into a folder.

    Args:
        run: what it says.
        out: the folder; made when missing.

    Returns:
        The file.

    Raises:
        VitrailError: ``metrics.csv`` cannot be read.
    """
    return write_page(render(run), out / NAME)


def render(run: RunSummary) -> str:
    """The page as text."""
    parts = [
        _headline(run),
        _warnings(run),
        _comparison(run),
        _curves(run),
        _moments(run),
        _classes(run),
        _mistakes(run),
        _first_batch(run.first_batch),
        section("Do it again", f"<pre><code>{text(run.command)}</code></pre>") if run.command else "",
        section("Settings", definitions(run.config)) if run.config else "",
        section("Environment", definitions(run.environment)) if run.environment else "",
    ]
    return document(run.title, parts)


def _headline(run: RunSummary) -> str:
    if not run.headline:
        return ""
    figures = (
        f"<div><dt>{text(item.label)}</dt><dd>{text(item.value)}"
        + (f"<small>{text(item.note)}</small>" if item.note else "")
        + "</dd></div>"
        for item in run.headline
    )
    return f'<dl class="headline">{"".join(figures)}</dl>'


def _warnings(run: RunSummary) -> str:
    if not run.warnings:
        return ""
    shown, more = run.warnings[:LISTED], run.warnings[LISTED:]
    lines = "".join(f"<li>{text(line)}</li>" for line in shown)
    rest = "".join(f"<li>{text(line)}</li>" for line in more)
    hidden = f"<details><summary>and {len(more)} more</summary><ul>{rest}</ul></details>" if more else ""
    title = "1 warning" if len(run.warnings) == 1 else f"{len(run.warnings)} warnings"
    return f'<aside class="warnings"><h2>{title}</h2><ul>{lines}</ul>{hidden}</aside>'


def _comparison(run: RunSummary) -> str:
    if not run.comparison:
        return ""
    rows = "".join(
        f'<li{" class=ours" if row.ours else ""}><span class="name">{text(row.name)}</span>'
        f'<span class="value">{row.value:.2f}</span>'
        f'<span class="track"><span class="bar" style="width: {row.value:.3f}%"></span></span>'
        f'<span class="source">{text(row.source) if row.source else ""}</span></li>'
        for row in run.comparison
    )
    return section("Beside others", f'<ol class="comparison">{rows}</ol>', lead="Accuracy, %")


def _curves(run: RunSummary) -> str:
    figures = draw_curves(run.metrics, run.alone) if run.metrics is not None else {}
    drawn = (to_svg(figure, f"curve{i}", title) for i, (title, figure) in enumerate(figures.items()))
    return section("Curves", f'<div class="curves">{"".join(drawn)}</div>') if figures else ""


def _moments(run: RunSummary) -> str:
    if not run.moments:
        return ""
    cards = "".join(
        f"<figure>{picture(moment.image, moment.caption)}<figcaption>{text(moment.caption)}</figcaption></figure>"
        for moment in run.moments
    )
    lead = "The same held-out pictures, none of which it learns from, as training goes on."
    return section("What it sees", f'<div class="moments">{cards}</div>', lead=lead)


def _classes(run: RunSummary) -> str:
    """The confusion matrix beside the scores of every class, below them the commonest errors."""
    parts, lead = [], ""
    if run.confusion is not None and run.classes:
        right, total = int(run.confusion.trace()), int(run.confusion.sum())
        lead = f"{right:,} of {total:,} right. The shade of a cell is its share of the true class."
        parts.append(to_svg(draw_confusion(run.confusion, run.classes), "confusion", "Confusion matrix"))
    if run.per_class:
        rows = [
            (text(score.name), _meter(score.precision), _meter(score.recall), _meter(score.f1), f"{score.support:,}")
            for score in run.per_class
        ]
        heads = ("Class", "Precision, %", "Recall, %", "F1, %", "Pictures")
        parts.append(table(heads, rows, "classes", numbers=(1, 2, 3, 4)))
    if not parts:
        return ""
    return section("Class by class", f'<div class="beside">{"".join(parts)}</div>', _confused(run), lead=lead)


def _confused(run: RunSummary) -> str:
    if run.confusion is None or len(run.classes) < 3:
        return ""
    rows = [
        (text(true), text(predicted), f"{count:,}", f"{100 * share:.1f} %")
        for true, predicted, count, share in most_confused(run.confusion, run.classes)
    ]
    heads = ("Commonest errors", "Taken for", "Pictures", "Of its class")
    return table(heads, rows, "confused", numbers=(2, 3)) if rows else ""


def _meter(share: float) -> str:
    if share != share:
        return '<span class="muted">–</span>'
    return f'<span class="meter" style="--share: {share:.4f}">{100 * share:.1f}</span>'


def _mistakes(run: RunSummary) -> str:
    if not run.mistakes:
        return ""
    mapped = any(mistake.attention is not None for mistake in run.mistakes)
    lead = "The pictures it got wrong, the surest errors first."
    if mapped:
        lead += " Right of each: where it looked, patch by patch, each picture on its own scale."
    cards = "".join(_mistake(mistake) for mistake in run.mistakes)
    return section("Mistakes", colour_scale() if mapped else "", f'<div class="mistakes">{cards}</div>', lead=lead)


def _mistake(mistake: Mistake) -> str:
    if mistake.attention is None:
        image = _thumbnail(mistake.picture.convert("RGB"), 2 * THUMBNAIL)
    else:
        image = to_image(two_panel(mistake.picture, mistake.attention, legend="", side=MISTAKE_SIDE), background=None)
    alt = f"{mistake.name}: {mistake.true}, taken for {mistake.predicted}"
    return (
        f'<figure>{picture(image, alt)}<figcaption><span class="verdict"><b>{text(mistake.true)}</b> taken for '
        f'<b class="wrong">{text(mistake.predicted)}</b></span> '
        f'<span class="sure">{100 * mistake.confidence:.1f} % sure</span>'
        f'<span class="file">{text(mistake.name)}</span></figcaption></figure>'
    )


def _first_batch(batch: FirstBatch | None) -> str:
    if batch is None or not len(batch.images):
        return ""
    cells = "".join(
        f"<figure>{picture(_thumbnail(picture_of(image, batch.mean, batch.std), THUMBNAIL), label)}"
        f"<figcaption>{text(label)}</figcaption></figure>"
        for image, label in zip(batch.images, batch.labels, strict=True)
    )
    lead = "Pictures of the first training batch as the model saw them, augmentation included."
    return section("First batch", f'<div class="batch">{cells}</div>', lead=lead)


def _thumbnail(image: Image.Image, side: int) -> Image.Image:
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small
