"""``vitrail explain``: what a model looked at, as pictures, numbers and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tyro.conf import Positional

from vitrail.contracts import VitrailError
from vitrail.data import BrokenPicture, Preprocess, list_pictures, read_picture
from vitrail.durable import write_durably
from vitrail.explanations import AttentionRecord, picture_of
from vitrail.explanations.figures import save
from vitrail.explanations.given import attention_layers
from vitrail.jobs.explain_kinds import KINDS, Drawing, Kind, Other, Subject, matches
from vitrail.jobs.explain_page import MOST_PICTURES, Entry, section_of, write_explanations
from vitrail.jobs.explain_queries import draw_detector, draw_prompt
from vitrail.jobs.inference import Hardware, counted
from vitrail.jobs.merging import MergingSettings, with_merging
from vitrail.jobs.models import open_model
from vitrail.jobs.own_folder import own_folder
from vitrail.jobs.own_names import OwnNames
from vitrail.jobs.progress import say, track
from vitrail.jobs.prompts import read_points, require_inside
from vitrail.jobs.settings import make_folder
from vitrail.models import Backbone, Detr, Sam, VideoTransformer
from vitrail.weights import Artefact


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(MergingSettings):
    """Maps of what a model looked at: attention, rollout, evidence for a class, patch features, how far heads look.

    Writes PNG files and NPZ archives, a folder for every picture, and one HTML page. A detector shows what its queries
    looked at, a promptable segmenter what the masks of a click did; for a video model the pictures are the
    frames of one clip.
    """

    source: Positional[str]
    """A picture, a folder (searched through) or a glob."""
    model: str = "vit_small_patch14_dinov2"
    """Name of a pretrained model, folder of a run or of an artefact, or a checkpoint file."""
    kinds: tuple[Kind, ...] = ()
    """What is drawn. Left out: every kind that the model allows."""
    layer: int = -1
    """Block whose heads are drawn; negative numbers count from the end."""
    patch: tuple[int, ...] | None = None
    """Row and column of the patch whose view is drawn (for clips the step in time first). Left out: the class token's,
    or the mean over all patches; for similarity the patch in the middle."""
    class_name: str | None = None
    """Class whose evidence is drawn, by name or number. Left out: the predicted one."""
    other: Path | None = None
    """A second picture: patches are compared with it, and colours are shared with it."""
    points: tuple[str, ...] = ()
    """Clicks for a promptable segmenter, each X,Y in pixels of the picture. Left out: its middle."""
    whole: bool = False
    """Take the whole picture at its own aspect, not the crop that evaluation sees."""


@dataclass(frozen=True)
class Explanation:
    """The files of one picture, or of one clip."""

    name: str
    files: tuple[Path, ...]


def explain(config: ExplainConfig) -> list[Explanation]:
    """Draw and save what the model looked at in every picture, and a page that shows it all.

    Raises:
        VitrailError: a kind, layer, patch, class or precision that this model does not have, a picture that cannot be
            read, or no other one.
    """
    artefact = with_merging(open_model(config.model, config.model_overrides(), online=config.online), config)
    if config.precision == "bf16" and not isinstance(artefact.model, Detr | Sam):
        raise VitrailError("maps of picture encoders are drawn in float32: leave --precision bf16 out")
    if config.points and not isinstance(artefact.model, Sam):
        raise VitrailError(
            f"{config.model} is a {type(artefact.model).__name__}, but only promptable segmenters take --points: "
            "leave that out"
        )
    hardware = Hardware.of(config)
    artefact.model.to(hardware.device).eval()
    paths = [Path(path) for path in list_pictures(config.source)]
    out = config.out or own_folder("explain", config, "source", "model")
    make_folder(out)
    # The frames of a video model's clip are drawn together.
    groups = [paths] if isinstance(artefact.model, VideoTransformer) else [[path] for path in paths]
    explanations, sections, own_name = [], [], OwnNames()
    with track("explain", len(groups)) as advance:
        for group in groups:
            folder = out / own_name(group[0].stem)
            looked = _look_or_skip(config, artefact, hardware, group)
            advance(1)
            if looked is None:
                continue
            entry, attention = looked
            explanations.append(Explanation(entry.name, _write(entry, attention, folder)))
            if len(sections) < MOST_PICTURES:
                sections.append(section_of(entry, len(sections)))
    if not explanations:
        raise VitrailError("every picture was broken: nothing is left to draw")
    title = f"What {Path(config.model).name} looked at"
    page = write_explanations(title, _facts(config), sections, len(explanations) - len(sections), out)
    say(f"{counted(len(explanations), len(groups))} → {page}")
    return explanations


def _facts(config: ExplainConfig) -> dict[str, object]:
    named = ("source", "model", "image_size", "layer", "patch", "class_name", "other", "whole", "kinds", "merge")
    return {name: vars(config)[name] for name in named}


def _look_or_skip(
    config: ExplainConfig, artefact: Artefact, hardware: Hardware, paths: Sequence[Path]
) -> tuple[Entry, AttentionRecord | None] | None:
    """As :func:`_look`, without the broken pictures where they are to be left out; None where no other is left."""
    rest = list(paths)
    while rest:
        try:
            return _look(config, artefact, hardware, rest)
        except BrokenPicture as error:
            whole = [path for path in rest if str(path) != error.name]
            # The picture that all are compared with is nobody's to leave out.
            if config.on_error == "raise" or len(whole) == len(rest):
                raise
            say(f"skipped {error}")
            rest = whole
    return None


def _look(
    config: ExplainConfig, artefact: Artefact, hardware: Hardware, paths: Sequence[Path]
) -> tuple[Entry, AttentionRecord | None]:
    """What is drawn of one picture or clip, and the attention rows behind it where there are any."""
    model = artefact.model
    bands = artefact.preprocess.channels
    if isinstance(model, Detr | Sam):
        if config.kinds:
            raise VitrailError(
                f"kinds {', '.join(config.kinds)} are drawn of picture encoders; of a {type(model).__name__} leave "
                "kinds out: it shows what its queries looked at"
            )
        picture = read_picture(paths[0], bands)
        if isinstance(model, Detr):
            drawings = draw_detector(artefact, model, hardware, picture)
        else:
            points = read_points(config.points)
            require_inside(points, "points", picture, paths[0])
            drawings = draw_prompt(artefact, model, hardware, picture, points)
        return Entry(str(paths[0]), drawings), None
    subject = _subject(config, artefact, hardware, paths)
    drawings, notes = _draw(config, subject)
    record = _record_of(subject) if attention_layers(subject.model) else None
    return Entry(str(paths[0]), drawings, notes, _answer(artefact, subject)), record


def _draw(config: ExplainConfig, subject: Subject) -> tuple[list[Drawing], list[str]]:
    """Every kind that was asked for; of those that were not, every one that the model allows."""
    drawings, notes = [], []
    for kind in config.kinds or tuple(KINDS):
        try:
            drawings.append(KINDS[kind](subject))
        except VitrailError as error:
            # A wrong layer or patch is the user's, whatever the kind; what a model lacks is not.
            if config.kinds or (kind == "attention" and attention_layers(subject.model)):
                raise
            notes.append(f"{kind}: {error}")
    if subject.other is not None and (not config.kinds or "similarity" in config.kinds):
        drawings.append(matches(subject))
    return drawings, notes


def _subject(config: ExplainConfig, artefact: Artefact, hardware: Hardware, paths: Sequence[Path]) -> Subject:
    model = artefact.backbone
    if isinstance(model, VideoTransformer):
        images, frames = _clip(artefact.preprocess, model, paths)
    else:
        images, seen = _still(config, artefact.preprocess, model, paths[0])
        frames = (seen,)
    number = None if config.class_name is None else _class_number(config.class_name, artefact)
    other = None
    if config.other is not None:
        if isinstance(model, VideoTransformer):
            raise VitrailError("other compares pictures; a clip cannot be compared")
        pixels, seen = _still(config, artefact.preprocess, model, config.other)
        with torch.no_grad():
            other = Other(seen, model.features(pixels.to(hardware.device)))
    return Subject(
        model=model,
        images=images.to(hardware.device),
        frames=frames,
        layer=config.layer,
        patch=config.patch,
        classes=None if number is None else torch.tensor([number]),
        class_name="" if config.class_name is None else config.class_name,
        other=other,
    )


def _still(config: ExplainConfig, preprocess: Preprocess, model: Backbone, path: Path) -> tuple[Tensor, Image.Image]:
    """A picture as the model's input, and as it sees it."""
    picture = read_picture(path, preprocess.channels)
    if config.whole:
        preprocess = preprocess.whole(picture, model.patch_size)
    image = preprocess(picture)
    return image[None], picture_of(image, preprocess.mean, preprocess.std)


def _clip(
    preprocess: Preprocess, model: VideoTransformer, paths: Sequence[Path]
) -> tuple[Tensor, tuple[Image.Image, ...]]:
    """Frames evenly spread over the pictures as one clip, and the first frame of every step of its grid."""
    count, step = model.config.frames, model.config.tubelet_frames
    if len(paths) < 2:
        raise VitrailError(f"a video model looks at {count} frames: give a folder of them, in the order of their names")
    chosen = [paths[round(place)] for place in np.linspace(0, len(paths) - 1, count).tolist()]
    images = torch.stack([preprocess(read_picture(path, preprocess.channels)) for path in chosen], dim=1)
    frames = tuple(picture_of(images[:, first], preprocess.mean, preprocess.std) for first in range(0, count, step))
    return images[None], frames


def _class_number(name: str, artefact: Artefact) -> int:
    """The number of a class by its name, or as it is written."""
    if name in artefact.classes:
        return artefact.classes.index(name)
    count = artefact.model.num_classes
    if name.isdecimal() and int(name) < count:
        return int(name)
    known = ", ".join(artefact.classes[:20]) or f"numbers below {count}" if count else "none: it has no classifier"
    raise VitrailError(f"there is no class {name!r}; there are {known}")


def _answer(artefact: Artefact, subject: Subject) -> str:
    """The most probable class, for a model that has any."""
    if not subject.model.num_classes:
        return ""
    with torch.no_grad():
        shares = subject.model.classify(subject.tokens)[0].float().softmax(dim=-1)
    number = int(shares.argmax())
    name = artefact.classes[number] if artefact.classes else f"class {number}"
    return f"Predicted: {name}, {100 * float(shares[number]):.1f} %"


def _record_of(subject: Subject) -> AttentionRecord | None:
    """The rows that were drawn as a record; None where they are means, which are rows of no token."""
    if subject.patch is None and not subject.views[-1].class_token:
        return None
    attention = AttentionRecord(len(subject.views))
    for number, layer in enumerate(subject.views):
        attention.add(number, layer)
    return attention


def _write(entry: Entry, attention: AttentionRecord | None, folder: Path) -> tuple[Path, ...]:
    make_folder(folder)
    files = [save(drawing.figure, folder / f"{drawing.kind}.png") for drawing in entry.drawings]
    arrays: dict[str, Any] = {}
    for drawing in entry.drawings:
        arrays |= drawing.arrays
    content = BytesIO()
    np.savez_compressed(content, **arrays)
    write_durably(folder / "maps.npz", lambda path: path.write_bytes(content.getvalue()))
    files.append(folder / "maps.npz")
    if attention is not None:
        files.append(attention.to_npz(folder / "attention.npz"))
    return tuple(files)
