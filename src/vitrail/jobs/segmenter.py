"""A promptable segmenter and one picture: the picture is encoded once, prompts are in its own pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vitrail.data import Placement, Preprocess
from vitrail.jobs.inference import Hardware
from vitrail.models import Sam

LOGIT = 10.0
"""What a drawn mask says as a prompt: this much inside, as much below zero outside."""


@dataclass(frozen=True)
class Answer:
    """Masks for ``P`` prompts, ``M`` each.

    Attributes:
        masks: logits on the grid of the model's answers, above 0 inside.
        quality: predicted IoU with the truth.
        placement: where the picture lies on that grid.
    """

    masks: Float[Tensor, "p m h w"]
    quality: Float[Tensor, "p m"]
    placement: Placement

    def on_picture(self, chosen: Tensor | None = None) -> Float[Tensor, "n height width"]:
        """Logits on the picture's pixels.

        Args:
            chosen: which masks, a truth value for each of the ``P·M``; all of them when None.
        """
        masks = self.masks.flatten(0, 1)
        return self.placement.masks_out(masks if chosen is None else masks[chosen])


class Segmenter:
    """Answers prompts on one picture.

    Args:
        model: in evaluation mode, on the hardware's device.
        preprocess: the model's.
        hardware: where it runs.
        picture: RGB, or grey for a model of one band.
    """

    def __init__(self, model: Sam, preprocess: Preprocess, hardware: Hardware, picture: Image.Image) -> None:
        self.model = model
        self.preprocess = preprocess
        self.hardware = hardware
        self.size = (picture.height, picture.width)
        self.placement = preprocess.placement(*self.size)
        image = preprocess(picture)[None].to(hardware.device)
        with torch.inference_mode(), hardware.precision.autocast(hardware.device):
            self.embedding = model.encode(image)

    def answer(
        self,
        points: Float[Tensor, "p n 2"] | None = None,
        labels: Int[Tensor, "p n"] | None = None,
        boxes: Float[Tensor, "p 4"] | None = None,
        masks: Float[Tensor, "p height width"] | None = None,
        multimask: bool = True,
    ) -> Answer:
        """Masks of ``P`` prompts.

        Args:
            points: ``(x, y)`` in the picture's pixels.
            labels: 1 on the object, 0 beside it.
            boxes: ``(x0, y0, x1, y1)`` in the picture's pixels.
            masks: rough masks on the picture's pixels, from 0 outside to 1 inside.
            multimask: several masks for each prompt, for ambiguous ones.
        """
        device, place = self.hardware.device, self.placement
        rough = None
        if masks is not None:
            height, width = self.embedding.shape[-2:]
            rough = place.masks_in((2 * masks - 1) * LOGIT, (4 * height, 4 * width))[None].to(device)
        with torch.inference_mode(), self.hardware.precision.autocast(device):
            logits, quality = self.model.decode(
                self.embedding,
                None if points is None else place.points_in(points)[None].to(device),
                None if labels is None else labels[None].to(device),
                None if boxes is None else place.boxes_in(boxes)[None].to(device),
                rough,
                multimask,
            )
        return Answer(logits[0].float(), quality[0].float(), place)
