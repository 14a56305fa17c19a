"""``vitrail explain`` for models that answer queries: where a detector's queries and a prompt's mask tokens looked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from vitrail.explanations import picture_of
from vitrail.explanations.features import query_grid
from vitrail.explanations.given import Given, See, watch
from vitrail.explanations.record import rows_of
from vitrail.jobs.explain_kinds import Drawing
from vitrail.jobs.inference import Hardware
from vitrail.jobs.segmenter import Segmenter
from vitrail.models import Detr, Sam
from vitrail.weights import Artefact

SHOWN = 6
"""Queries that are drawn, the surest ones."""
LEAST = 0.5
"""Probability from which a query has found something; the surest one is drawn in any case."""
FIRST_MASK = 2
"""Place of the first mask for ambiguous prompts among a decoder's tokens: IoU and the single mask stand before it."""


def draw_detector(artefact: Artefact, model: Detr, hardware: Hardware, picture: Image.Image) -> tuple[Drawing, ...]:
    """What the queries that found something looked at in the last decoder block, mean of heads."""
    image = artefact.preprocess(picture)[None].to(hardware.device)
    crossings: list[Given] = []
    with watch(model, _keep_crossings(crossings)), torch.no_grad():
        logits, boxes = model(image)
    scores, labels = logits[0].float().softmax(dim=-1)[:, :-1].max(dim=-1)
    order = scores.argsort(descending=True)[:SHOWN]
    chosen = order[: max(1, int((scores[order] >= LEAST).sum()))].cpu()
    maps = _mean_of_heads(crossings[-1], chosen.tolist())
    height, width = image.shape[-2:]
    corners = box_convert(boxes[0, chosen.to(boxes.device)].float(), "cxcywh", "xyxy").cpu()
    numbers = [int(labels[place]) for place in chosen.tolist()]
    names = [artefact.classes[number] if artefact.classes else f"class {number}" for number in numbers]
    titles = [f"{name} {float(scores[place]):.2f}" for name, place in zip(names, chosen.tolist(), strict=True)]
    seen = picture_of(image[0], artefact.preprocess.mean, artefact.preprocess.std)
    corners = corners * torch.tensor([width, height, width, height])
    figure = query_grid(seen, maps, titles, corners, title="what each query looked at, last decoder block")
    return (Drawing("queries", figure, {"queries": maps.numpy(), "boxes": corners.numpy()}),)


def draw_prompt(
    artefact: Artefact, model: Sam, hardware: Hardware, picture: Image.Image, points: Float[Tensor, "n 2"]
) -> tuple[Drawing, ...]:
    """What the tokens of the three masks looked at for clicks on one object, in the decoder's last step.

    Args:
        artefact: of the model.
        model: the model.
        hardware: where it runs.
        picture: the picture.
        points: ``(x, y)`` in its pixels; the middle of the picture when there are none.
    """
    clicks = points if len(points) else torch.tensor([[picture.width / 2, picture.height / 2]])
    segmenter = Segmenter(model, artefact.preprocess, hardware, picture)
    crossings: list[Given] = []
    with watch(model, _keep_crossings(crossings)):
        answer = segmenter.answer(clicks[None], torch.ones(1, len(clicks), dtype=torch.int64))
    count = answer.masks.shape[1]
    maps = _mean_of_heads(crossings[-1], range(FIRST_MASK, FIRST_MASK + count))
    titles = [f"mask {number}, expected IoU {float(answer.quality[0, number]):.2f}" for number in range(count)]
    image = artefact.preprocess(picture)
    seen = picture_of(image, artefact.preprocess.mean, artefact.preprocess.std)
    placed = segmenter.placement.points_in(clicks)
    figure = query_grid(seen, maps, titles, points=placed, title="what each mask token looked at, end of the decoder")
    return (Drawing("prompt", figure, {"prompt": maps.numpy(), "quality": answer.quality[0].cpu().numpy()}),)


def _keep_crossings(found: list[Given]) -> See:
    """Keeps, in order, what every attention was given that reads a picture from tokens that are no places of it."""

    def see(_: int, given: Given) -> None:
        seen = given.mixer.seen(given.tokens, given.context)
        if len(seen.grid) >= 2 and len(given.tokens.grid) < 2:
            found.append(given)

    return see


def _mean_of_heads(given: Given, queries: Sequence[int]) -> Float[Tensor, "q h w"]:
    return rows_of(given, queries).maps()[0].mean(dim=0)
