"""What a detector finds in pictures: a table with a row for every box, and on request the pictures with them drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import matplotlib
import torch
from matplotlib import font_manager
from matplotlib.colors import to_hex
from PIL import Image
from torchvision.ops import clip_boxes_to_image
from torchvision.utils import draw_bounding_boxes

from vitrail.contracts import VitrailError
from vitrail.data import (
    BrokenPicture,
    FileSource,
    Loader,
    SizedTransform,
    Source,
    SubsetSource,
    list_pictures,
    pad_collate,
    read_picture,
    to_picture,
    to_pixels,
)
from vitrail.data.loader import NothingLeft
from vitrail.durable import write_durably
from vitrail.heads import Detections, detections
from vitrail.jobs.bulk import fingerprint, run_in_parts
from vitrail.jobs.inference import Hardware, say_skipped
from vitrail.jobs.models import require_classes, weights_digest
from vitrail.jobs.own_folder import own_folder
from vitrail.jobs.own_names import OwnNames
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.progress import say, track
from vitrail.jobs.tables import Row, Table, check_table_name, picture_name
from vitrail.models import Detr
from vitrail.weights import Artefact

CORNERS = ("x0", "y0", "x1", "y1")
"""Left, top, right and bottom of a box, in pixels of the original picture."""


def predict_detection(config: PredictConfig, artefact: Artefact, hardware: Hardware) -> Table:
    """Every box of at least ``config.threshold``, picture by picture, surest first: name, label, score and corners.

    A picture in which nothing is found has no row.

    Raises:
        VitrailError: a model that is no detector or has no classes, an impossible threshold or name of a table.
    """
    model = artefact.model
    if not isinstance(model, Detr):
        raise VitrailError(f"boxes need a detector, not a {type(model).__name__}")
    if not 0.0 <= config.threshold <= 1.0:
        raise VitrailError(f"threshold must lie in 0 … 1, not {config.threshold}")
    require_classes(artefact, config.model)
    bands = artefact.preprocess.channels
    source = FileSource(list_pictures(config.source), bands, config.source)
    names = [source.name(i) for i in range(len(source))]
    out = config.out or own_folder("predict", config, "source", "model") / "boxes.csv"
    check_table_name(out)

    def work(part: range) -> list[Row] | None:
        found = find(config, artefact, model, hardware, SubsetSource(source, list(part)))
        if found is None:
            return None
        return [row for name, objects in found for row in _rows(name, objects, artefact.classes)]

    key = fingerprint(weights_digest(model), artefact.preprocess, hardware.form, config.threshold)
    rows = run_in_parts(names, key, work, out)
    if config.draw is not None:
        drawn = draw_detections(names, rows, artefact.classes, config.draw, bands)
        say(f"{len(drawn)} pictures with boxes → {config.draw}")
    say(f"{len(rows)} boxes in {len(names)} pictures → {out}")
    return rows


def find(
    config: PredictConfig, artefact: Artefact, model: Detr, hardware: Hardware, source: Source
) -> list[tuple[str, Detections]] | None:
    """The objects of every picture by its name, boxes in its own pixels and inside it; None where all were broken."""
    loader = Loader(
        source,
        SizedTransform(artefact.preprocess),
        batch_size=min(config.batch_size, len(source)),
        seed=config.seed,
        shuffle=False,
        drop_last=False,
        workers=config.inference_workers(hardware.device) if len(source) > config.batch_size else 0,
        on_error=config.on_error,
        cache=False,
        collate=pad_collate,
    )
    found: list[tuple[str, Detections]] = []
    with track("predict", len(source)) as advance, torch.inference_mode(), suppress(NothingLeft):
        for batch in loader.epoch(0):
            sizes, present = batch.extras["size"], batch.extras["mask"]
            moved = batch.to(hardware.device)
            with hardware.precision.autocast(hardware.device):
                # Without padding there is nothing to hide, and the fused kernel is quickest without a mask.
                answer = model(moved.images, None if bool(present.all()) else moved.extras["mask"])
            objects = detections(answer.logits.cpu(), answer.boxes.cpu(), sizes, config.threshold)
            for name, size, kept in zip(batch.names, sizes.tolist(), objects, strict=True):
                found.append((name, kept._replace(boxes=clip_boxes_to_image(kept.boxes, (size[0], size[1])))))
            advance(len(batch))
    say_skipped(loader.skipped)
    return found or None


def _rows(name: str, objects: Detections, classes: Sequence[str]) -> list[Row]:
    scores, labels, boxes = (values.tolist() for values in objects)
    return [
        {
            "name": picture_name(name),
            "label": classes[label],
            "score": round(score, 6),
            **{corner: round(place, 2) for corner, place in zip(CORNERS, box, strict=True)},
        }
        for score, label, box in zip(scores, labels, boxes, strict=True)
    ]


def draw_detections(
    names: Sequence[str], rows: Iterable[Row], classes: Sequence[str], folder: Path, bands: int = 3
) -> list[Path]:
    """Every picture with its boxes drawn on it, as ``folder/<stem>.png``, numbered where stems repeat.

    Args:
        names: the pictures' paths; broken ones are left out.
        rows: of :func:`predict_detection`.
        classes: each has a colour of its own, by its number.
        folder: made where it does not exist.
        bands: 1 or 3, as the pictures are read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    of_picture: dict[str, list[Row]] = {picture_name(name): [] for name in names}
    for row in rows:
        of_picture[row["name"]].append(row)
    own_name = OwnNames()
    drawn = []
    for name in names:
        try:
            picture = read_picture(name, bands)
        except BrokenPicture:
            continue
        path = folder / f"{own_name(Path(name).stem)}.png"
        shown = draw_boxes(picture, of_picture[picture_name(name)], classes)
        write_durably(path, partial(shown.save, format="PNG"))
        drawn.append(path)
    return drawn


def draw_boxes(picture: Image.Image, rows: Sequence[Row], classes: Sequence[str]) -> Image.Image:
    """A picture with boxes, their labels and scores; lines and letters grow with the picture."""
    picture = picture.convert("RGB")
    if not rows:
        return picture
    palette = matplotlib.colormaps["tab20"]
    colours: list[str | tuple[int, int, int]] = [
        to_hex(palette(classes.index(row["label"]) % palette.N)) for row in rows
    ]
    side = max(picture.size)
    drawn = draw_bounding_boxes(
        to_pixels(picture),
        torch.tensor([[row[corner] for corner in CORNERS] for row in rows]),
        labels=[f"{row['label']} {row['score']:.2f}" for row in rows],
        colors=colours,
        width=max(2, side // 250),
        font=font_manager.findfont("DejaVu Sans"),
        font_size=max(10, side // 50),
        label_background_colors=colours,
        label_colors="black",
        fill_labels=True,
    )
    return to_picture(drawn)
