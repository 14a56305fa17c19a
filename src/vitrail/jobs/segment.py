"""Masks of what points, boxes or a rough mask point at, or of everything in a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.colors
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_keypoints, draw_segmentation_masks

from vitrail.contracts import VitrailError
from vitrail.data import BrokenPicture, list_pictures, printable, read_picture, to_picture, to_pixels
from vitrail.jobs.bulk import fingerprint, run_in_parts
from vitrail.jobs.inference import Hardware
from vitrail.jobs.mask_generator import GeneratorSettings, generate_masks, stability
from vitrail.jobs.models import weights_digest
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.progress import say, track
from vitrail.jobs.segmenter import Segmenter
from vitrail.jobs.settings import default_out, make_folder
from vitrail.jobs.tables import Row, Table, picture_name
from vitrail.models import Sam
from vitrail.weights import Artefact

TABLE = "masks.jsonl"
COLOURS = [matplotlib.colors.to_hex(matplotlib.colormaps["tab20"](number)) for number in range(20)]
OPAQUE = 0.55


@dataclass(frozen=True)
class Prompts:
    """What is asked of every picture, in its own pixels; one prompt a row.

    Attributes:
        points: ``(P, N, 2)`` as ``(x, y)``.
        labels: 1 on the object, 0 beside it.
        boxes: ``(x0, y0, x1, y1)``.
        mask: from 0 outside to 1 inside, on the picture's pixels.
    """

    points: Float[Tensor, "p n 2"] | None = None
    labels: Int[Tensor, "p n"] | None = None
    boxes: Float[Tensor, "p 4"] | None = None
    mask: Float[Tensor, "1 height width"] | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is asked: then everything is."""
        return self.points is None and self.boxes is None and self.mask is None

    @property
    def mask_digest(self) -> str:
        """A fingerprint of the rough mask, empty when there is none."""
        return "" if self.mask is None else hashlib.sha256(self.mask.numpy().tobytes()).hexdigest()

    @property
    def ambiguous(self) -> bool:
        """Whether a prompt may mean a part as well as the whole: a single click and nothing else."""
        alone = self.boxes is None and self.mask is None
        return alone and self.points is not None and self.points.shape[1] == 1


@dataclass(frozen=True)
class Mask:
    """One answer.

    Attributes:
        pixels: on the picture's pixels.
        facts: what is written of it besides its area and box.
        drawn: whether it is shown in the drawing; of several for one prompt only the best is.
    """

    pixels: Bool[np.ndarray, "h w"]
    facts: Row
    drawn: bool = True


def read_prompts(config: PredictConfig) -> Prompts:
    """The options as numbers. Several boxes are several objects; all points belong to one.

    Raises:
        VitrailError: numbers that cannot be read, labels that do not fit, or points beside several boxes.
    """
    points = [_numbers(text, 2, "points") for text in config.points]
    boxes = [_numbers(text, 4, "boxes") for text in config.boxes]
    labels = list(config.point_labels) or [1] * len(points)
    if len(labels) != len(points):
        raise VitrailError(f"point_labels: {len(labels)} labels for {len(points)} points")
    if not set(labels) <= {0, 1}:
        raise VitrailError(f"point_labels must be 1 (on the object) or 0 (beside it), not {config.point_labels}")
    if len(boxes) > 1 and (points or config.mask_in):
        raise VitrailError("points or a mask go with one box at most: several boxes are several objects")
    for left, top, right, bottom in boxes:
        if right <= left or bottom <= top:
            box = f"{left:g},{top:g},{right:g},{bottom:g}"
            raise VitrailError(f"boxes are X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1, not {box}")
    mask = None
    if config.mask_in is not None:
        mask = to_pixels(read_picture(config.mask_in, channels=1)).float() / 255
    return Prompts(
        torch.tensor([points]) if points else None,
        torch.tensor([labels]) if points else None,
        torch.tensor(boxes) if boxes else None,
        mask,
    )


def _numbers(text: str, count: int, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise VitrailError(f"{option}: {count} numbers with commas between them are wanted, not {text!r}")
    return numbers


@dataclass(frozen=True)
class Asking:
    """One run: who is asked, what, and where the answers go."""

    config: PredictConfig
    model: Sam
    artefact: Artefact
    hardware: Hardware
    prompts: Prompts
    settings: GeneratorSettings
    out: Path

    def answer(self, path: Path, folder: str) -> list[Row] | None:
        """The rows of one picture, whose masks are written and drawn; None for a broken one that is skipped."""
        try:
            picture = read_picture(path, 1 if self.model.in_channels == 1 else 3)
        except BrokenPicture as error:
            if self.config.on_error == "raise":
                raise
            say(f"skipped {error}")
            return None
        _require_inside(self.prompts, picture, path)
        masks = _everything(self, picture) if self.prompts.empty else _prompted(self.see(picture), self.prompts)
        if self.config.draw is not None:
            _draw(picture, masks, self.prompts, self.config.draw / f"{folder}.png")
        return [self._row(mask, path, f"{folder}/{number:04d}.png") for number, mask in enumerate(masks)]

    def see(self, picture: Image.Image) -> Segmenter:
        """A picture, encoded."""
        return Segmenter(self.model, self.artefact.preprocess, self.hardware, picture)

    def _row(self, mask: Mask, path: Path, name: str) -> Row:
        file = self.out / name
        make_folder(file.parent)
        Image.fromarray(mask.pixels.astype(np.uint8) * 255).save(file)
        rows, columns = (np.flatnonzero(mask.pixels.any(axis=axis)) for axis in (1, 0))
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else [0, 0, 0, 0]
        area = int(mask.pixels.sum())
        return {
            "name": picture_name(str(path)),
            "mask": name,
            "box": [int(side) for side in box],
            "area": area,
            **mask.facts,
        }


def predict_segmentation(config: PredictConfig, artefact: Artefact, hardware: Hardware) -> Table:
    """Masks of every picture, best first: a PNG each, and a row with what is known of it in ``masks.jsonl``.

    A row has the picture's ``name``, the ``mask``'s file, its ``box`` (x0, y0, x1, y1 in pixels, the ends outside),
    ``area`` in pixels, predicted IoU (``quality``) and ``stability``, and the number of the ``prompt`` or, when
    everything was asked for, the ``point`` that found it.
    """
    model = artefact.model
    if not isinstance(model, Sam):
        raise VitrailError(f"{config.model}: a {type(model).__name__} takes no prompts")
    prompts, settings = read_prompts(config), _settings(config)
    out = config.out or default_out("predict", config.source, config.model)
    if out.suffix:
        raise VitrailError(f"{out}: masks go into a folder: leave {out.suffix} away")
    paths = list_pictures(config.source)
    folders = _folders(paths)
    asking = Asking(config, model, artefact, hardware, prompts, settings, out)
    asked = (config.points, config.point_labels, config.boxes, prompts.mask_digest, settings)
    key = fingerprint(weights_digest(model), artefact.preprocess, hardware.form, asked)
    with track("segment", len(paths)) as advance:

        def work(part: range) -> list[Row] | None:
            (number,) = part
            rows = asking.answer(paths[number], folders[number])
            advance(1)
            return rows

        rows = run_in_parts([str(path) for path in paths], key, work, out / TABLE, part=1)
    say(f"{len(rows)} masks in {len(paths)} pictures → {out}")
    return rows


def _settings(config: PredictConfig) -> GeneratorSettings:
    return GeneratorSettings(
        points_per_side=config.points_per_side,
        batch=config.batch_size,
        quality=config.mask_quality,
        stability=config.mask_stability,
        overlap=config.mask_overlap,
        crop_layers=config.crop_layers,
        min_region=config.min_region,
    )


def _folders(paths: Sequence[Path]) -> list[str]:
    """A folder a picture, by its stem as the table can hold it; numbered where stems repeat."""
    seen: dict[str, int] = {}
    names = []
    for path in paths:
        stem = picture_name(path.stem)
        count = seen[stem] = seen.get(stem, 0) + 1
        names.append(stem if count == 1 else f"{stem}-{count}")
    return names


def _require_inside(prompts: Prompts, picture: Image.Image, path: Path) -> None:
    """Refuse prompts that have no sense on this picture."""
    name, limits = printable(str(path)), torch.tensor([picture.width, picture.height])
    for what, places in (("points", prompts.points), ("boxes", prompts.boxes)):
        corners = None if places is None else places.unflatten(-1, (-1, 2))
        if corners is not None and not bool(((corners >= 0) & (corners <= limits)).all()):
            raise VitrailError(f"{name}: {what} lie outside its {picture.width}x{picture.height} pixels")
    if prompts.mask is not None and tuple(prompts.mask.shape[1:]) != (picture.height, picture.width):
        height, width = prompts.mask.shape[1:]
        raise VitrailError(f"{name}: is {picture.width}x{picture.height}, but the mask {width}x{height}")


def _prompted(segmenter: Segmenter, prompts: Prompts) -> list[Mask]:
    answer = segmenter.answer(prompts.points, prompts.labels, prompts.boxes, prompts.mask, prompts.ambiguous)
    logits = answer.on_picture()
    steady = stability(logits, GeneratorSettings.stability_offset)
    count = answer.quality.shape[1]
    masks = []
    for prompt, quality in enumerate(answer.quality):
        for rank, choice in enumerate(quality.argsort(descending=True).tolist()):
            number = prompt * count + choice
            facts = {
                "prompt": prompt,
                "quality": round(float(quality[choice]), 6),
                "stability": round(float(steady[number]), 6),
            }
            masks.append(Mask((logits[number] > 0).cpu().numpy(), facts, drawn=rank == 0))
    return masks


def _everything(asking: Asking, picture: Image.Image) -> list[Mask]:
    found = generate_masks(asking.see, picture, asking.settings)
    return [
        Mask(
            found.mask(number),
            {
                "point": found.points[number].tolist(),
                "quality": round(float(found.quality[number]), 6),
                "stability": round(float(found.stability[number]), 6),
            },
        )
        for number in found.quality.argsort(descending=True).tolist()
    ]


def _draw(picture: Image.Image, masks: Sequence[Mask], prompts: Prompts, file: Path) -> None:
    """The picture with coloured masks, small ones above large ones, and the prompts."""
    image = to_pixels(picture.convert("RGB"))
    shown = sorted((mask for mask in masks if mask.drawn), key=lambda mask: -int(mask.pixels.sum()))
    for number, mask in enumerate(shown):
        colour = COLOURS[number % len(COLOURS)]
        image = draw_segmentation_masks(image, torch.from_numpy(mask.pixels)[None], OPAQUE, [colour])
    size = max(2, round(min(picture.size) / 100))
    if prompts.boxes is not None:
        image = draw_bounding_boxes(image, prompts.boxes, colors="white", width=size)
    if prompts.points is not None and prompts.labels is not None:
        for label, colour in ((1, "lime"), (0, "red")):
            chosen = prompts.points[prompts.labels == label]
            if len(chosen):
                image = draw_keypoints(image, chosen[:, None], colors=colour, radius=2 * size)
    make_folder(file.parent, "--draw")
    to_picture(image).save(file)
