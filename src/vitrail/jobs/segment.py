"""Masks of what points, boxes or a rough mask point at, or of everything in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.colors
import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torchvision.utils import draw_bounding_boxes, draw_keypoints, draw_segmentation_masks

from vitrail.contracts import VitrailError
from vitrail.data import BrokenPicture, list_pictures, read_picture, to_picture, to_pixels
from vitrail.durable import write_durably
from vitrail.jobs.bulk import fingerprint, run_in_parts
from vitrail.jobs.inference import Hardware
from vitrail.jobs.mask_generator import GeneratorSettings, generate_masks, stability
from vitrail.jobs.models import weights_digest
from vitrail.jobs.own_folder import own_folder
from vitrail.jobs.own_names import OwnNames
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.progress import say, track
from vitrail.jobs.prompts import Prompts, read_prompts, require_fitting
from vitrail.jobs.segmenter import Segmenter
from vitrail.jobs.settings import make_folder
from vitrail.jobs.tables import Row, Table, picture_name
from vitrail.models import Sam
from vitrail.weights import Artefact

TABLE = "masks.jsonl"
COLOURS = [matplotlib.colors.to_hex(matplotlib.colormaps["tab20"](number)) for number in range(20)]
OPAQUE = 0.55


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
            picture = read_picture(path, self.artefact.preprocess.channels)
        except BrokenPicture as error:
            if self.config.on_error == "raise":
                raise
            say(f"skipped {error}")
            return None
        require_fitting(self.prompts, picture, path)
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
        picture = Image.fromarray(mask.pixels.astype(np.uint8) * 255)
        # The part of the table that names it is safe on the disk, too.
        write_durably(file, lambda path: picture.save(path, "PNG"))
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
    paths = list_pictures(config.source)
    if config.out and config.out.suffix:
        raise VitrailError(f"{config.out}: masks go into a folder: leave {config.out.suffix} away")
    out = config.out or own_folder("predict", config, "source", "model")
    own_name = OwnNames()
    folders = [own_name(picture_name(path.stem)) for path in paths]
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
    write_durably(file, lambda path: to_picture(image).save(path, "PNG"))
