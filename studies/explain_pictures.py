"""The pictures of docs/explain.md, from photographs of scikit-image and the real DINOv2 weights.

Run: python studies/explain_pictures.py   (extra: demo; writes docs/images/explain-*.jpg and .png)
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from skimage import data

from vitrail.explanations import (
    class_maps,
    head_mean,
    measure_reach,
    mutual_matches,
    patch_colours,
    patch_similarity,
    picture_of,
    position_similarity,
    record,
    shared_basis,
)
from vitrail.explanations.charts import reach_chart
from vitrail.explanations.features import colour_rows, match_panel, position_grid, similarity_panel
from vitrail.explanations.figures import head_grid, to_image, two_panel
from vitrail.explanations.maps import upsample_bilinear
from vitrail.jobs.models import open_model
from vitrail.nn.tokens import Tokens

IMAGES = Path(__file__).parent.parent / "docs" / "images"
WIDTH = 1300
LEFT_EYE = (172, 110)
"""Pixels ``(x, y)`` of the cat's left eye in the photograph."""
CLOSE_UP = (60, 10, 390, 270)
"""The part of the cat's photograph that is matched with the whole."""


class Look:
    """A photograph before the model: what it saw, its features and the attention of its class token."""

    def __init__(self, photograph: Image.Image) -> None:
        preprocess = ARTEFACT.preprocess.whole(photograph, MODEL.patch_size)
        self.image = preprocess(photograph)[None]
        with record(MODEL, layers=(-1,)) as attention, torch.no_grad():
            self.tokens: Tokens = MODEL.features(self.image)
        self.heads = class_maps(attention)[0]
        self.seen = picture_of(self.image[0], preprocess.mean, preprocess.std)
        self.grid = (self.tokens.grid[0], self.tokens.grid[1])
        self.size = photograph.size

    def patch(self, point: tuple[int, int]) -> tuple[int, int]:
        """The patch under a pixel of the photograph."""
        (x, y), (width, height) = point, self.size
        return (y * self.grid[0] // height, x * self.grid[1] // width)


def write(figure: Figure, name: str) -> None:
    """As wide as a page; photographs as JPEG, charts as PNG."""
    image = to_image(figure).convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    path = IMAGES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=88, optimize=True)
    print(f"{path.name}: {image.width} × {image.height}, {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """All of them."""
    photograph = Image.fromarray(data.chelsea())
    cat, close_up = Look(photograph), Look(photograph.crop(CLOSE_UP))
    astronaut, rocket = Look(Image.fromarray(data.astronaut())), Look(Image.fromarray(data.rocket()))
    for name, look in (("cat", cat), ("astronaut", astronaut), ("rocket", rocket)):
        values = head_mean(look.heads[None])[0]
        figure = two_panel(look.seen, values, "class token, last layer, mean of heads", upsample=upsample_bilinear)
        write(figure, f"explain-class-{name}.jpg")
    write(head_grid(cat.seen, cat.heads, "class token, last layer, head by head", side=2.2), "explain-heads.jpg")

    eye = cat.patch(LEFT_EYE)
    within = patch_similarity(cat.tokens, eye)[0]
    write(similarity_panel(cat.seen, within, eye, title="one eye, and what is like it"), "explain-eye.jpg")
    across = patch_similarity(cat.tokens, eye, astronaut.tokens)[0]
    figure = similarity_panel(cat.seen, across, eye, astronaut.seen, cat.grid, "the cat's eye in another photograph")
    write(figure, "explain-eye-across.jpg")
    pairs = mutual_matches(cat.tokens, close_up.tokens, 24)
    figure = match_panel(cat.seen, close_up.seen, pairs, (cat.grid, close_up.grid), "mutual nearest patches")
    write(figure, "explain-matches.jpg")

    looks = (cat, close_up, astronaut, rocket)
    basis = shared_basis([look.tokens for look in looks])
    colours = [patch_colours(look.tokens, basis=basis)[0] for look in looks]
    write(colour_rows([look.seen for look in looks], colours, "components that four pictures share"), "explain-pca.jpg")

    height, width = cat.image.shape[-2:]
    write(reach_chart(measure_reach(MODEL, cat.image), (height, width)), "explain-reach.png")
    write(position_grid(position_similarity(MODEL)), "explain-positions.png")


ARTEFACT = open_model("vit_small_patch14_dinov2", {"img_size": 518})
MODEL = ARTEFACT.backbone.eval()

if __name__ == "__main__":
    main()
