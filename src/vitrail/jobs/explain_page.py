"""The page of ``vitrail explain``: all that was drawn of every picture, and what each map does and does not mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrail.explanations.figures import to_image, with_ink
from vitrail.jobs.explain_kinds import Drawing
from vitrail.jobs.report.document import document, write_page
from vitrail.jobs.report.html import definitions, picture, section, text
from vitrail.jobs.report.svg import PAGE, to_svg

NAME = "explain.html"
PAGE_DPI = 130
GREY = "#7d7d7d"
"""Words inside maps: readable on the light paper and on the dark one."""
MOST_PICTURES = 40
"""Pictures on a page, which would be too large to open else; the files of all others are written none the less."""

MEANINGS = {
    "attention": "Where this token takes its content from in this layer. It says where the model looked, not what it "
    "saw there nor whether it mattered for the answer.",
    "heads": "The same for each head, each on its own scale: colours compare within a head, not between heads.",
    "layers": "Every layer and head, each on its own scale. Early heads often look nearby, late ones at objects.",
    "rollout": "Attention multiplied through all layers, half of it kept by the residual connection. It follows where "
    "content could come from and ignores what values and MLPs do with it.",
    "grad-rollout": "Rollout of the attention whose growth would raise the class's score. Evidence for one class, "
    "to first order.",
    "relevance": "Attention of all layers that raises the class's score, added up (Chefer et al. 2021). What speaks "
    "against the class is left out.",
    "grad-cam": "Features that raise the class's score where they are strong (Selvaraju et al. 2017). One layer only.",
    "pca": "Patches of like colour have like features. The colours themselves have no names; they compare only "
    "between pictures that are drawn together.",
    "similarity": "Cosine of the framed patch's features with those of every patch. Alike to the model need not be "
    "alike to the eye, and every patch also knows of its surroundings.",
    "matches": "Patches that are each other's nearest neighbour in the two pictures. Nothing forbids two unlike "
    "patches from being each other's nearest.",
    "reach": "Left: how far from a patch its content comes from, a point for every head. Right: how evenly it looks. "
    "Tokens that are no patches are left out of the distance.",
    "norms": "Large models turn some patches of little content into stores of global facts; they stand out by their "
    "length (Darcet et al. 2024). A patch in red is far longer than its picture's others.",
    "positions": "How alike the positions of patches are to the model: rows and columns show where it learned them. "
    "It says nothing about this picture.",
    "queries": "Where each query looked in the last decoder block, and the box that it answered. Boxes come from the "
    "whole decoder, so that the map often shows the box's edges only.",
    "prompt": "Where the token of each mask looked in the decoder's last step; the star is the click.",
}


SPOKEN = {"pca": "PCA", "grad-cam": "Grad-CAM", "grad-rollout": "Gradient rollout"}


@dataclass(frozen=True)
class Entry:
    """One picture on the page.

    Attributes:
        name: its path.
        drawings: what was drawn.
        notes: what was left out, and why.
        answer: what the model says it is, if it says anything.
    """

    name: str
    drawings: Sequence[Drawing]
    notes: Sequence[str] = ()
    answer: str = ""


def write_explanations(title: str, facts: dict[str, object], sections: Sequence[str], more: int, out: Path) -> Path:
    """Write ``explain.html``, one file with every figure in it, into a folder.

    Args:
        title: of the page.
        facts: model and settings by name.
        sections: one for each picture that is shown (:func:`section_of`).
        more: pictures that are not shown.
        out: the folder.
    """
    lead = (
        '<p class="lead">In a map, brighter is more. It shows what one part of the computation passed on and is no '
        "account of why the model answered as it did.</p>"
    )
    rest = f'<p class="lead">{more} more pictures lie in the folder.</p>' if more else ""
    parts = [lead, *sections, rest, section("Settings", definitions(facts))]
    return write_page(document(title, parts), out / NAME)


def section_of(entry: Entry, number: int) -> str:
    """One picture as HTML; its figures take the page's colours and are of no other use afterwards.

    Args:
        entry: the picture.
        number: its place on the page.
    """
    cards = [_card(drawing, f"{number}-{place}", entry.name) for place, drawing in enumerate(entry.drawings)]
    notes = "".join(f"<li>{text(note)}</li>" for note in entry.notes)
    left_out = f"<details><summary>Left out</summary><ul>{notes}</ul></details>" if notes else ""
    return section(Path(entry.name).name, f'<div class="maps">{"".join(cards)}</div>', left_out, lead=entry.answer)


def _card(drawing: Drawing, name: str, source: str) -> str:
    label = f"{drawing.kind} of {source}"
    spoken = SPOKEN.get(drawing.kind, drawing.kind.capitalize())
    if drawing.chart is not None:
        shown = to_svg(drawing.chart(PAGE), f"chart{name}", label)
    else:
        shown = picture(to_image(with_ink(drawing.figure, GREY), PAGE_DPI, background=None), label)
    return (
        f"<figure>{shown}<figcaption><b>{text(spoken)}.</b> "
        f'<span class="muted">{text(MEANINGS[drawing.kind])}</span></figcaption></figure>'
    )
