"""The pictures of the README, from real photographs and the real DINOv2 weights.

Run: python studies/pictures.py   (extra: demo; writes docs/images/attention.png)
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from skimage import data

from vitrail.explain import class_maps, head_mean, patch_colours, picture_of, record
from vitrail.explain.features import colour_panel
from vitrail.explain.figures import to_image, two_panel
from vitrail.explain.maps import upsample_bilinear
from vitrail.jobs.explain import whole_picture
from vitrail.jobs.models import open_model

PHOTOGRAPHS = {"chelsea": data.chelsea, "astronaut": data.astronaut, "rocket": data.rocket}
HEIGHT = 620


def rows() -> list[list[Image.Image]]:
    """For each photograph: what the class token looks at, and the patch features as colours."""
    artefact = open_model("vit_small_patch14_dinov2", {"img_size": 518})
    preprocess, model = artefact.preprocess, artefact.model.eval()
    found = []
    for load in PHOTOGRAPHS.values():
        picture = Image.fromarray(load())
        whole = whole_picture(preprocess, picture, model.patch_size)
        image = whole(picture)
        with record(model, layers=(-1,)) as attention, torch.no_grad():
            tokens = model.features(image[None])
        seen = picture_of(image, whole.mean, whole.std)
        values = head_mean(class_maps(attention, -1))[0]
        overlay = two_panel(seen, values, legend="", upsample=upsample_bilinear)
        found.append([to_image(overlay), to_image(colour_panel(seen, patch_colours(tokens)[0]))])
    return found


def joined(images: list[list[Image.Image]]) -> Image.Image:
    """One row a photograph: the photograph, where the class token looks, the patches' colours."""
    strips = []
    for attention, colours in images:
        right = colours.crop((colours.width // 2, 0, colours.width, colours.height))
        right = right.resize((round(right.width * attention.height / right.height), attention.height))
        strip = Image.new("RGB", (attention.width + right.width, attention.height), "white")
        strip.paste(attention, (0, 0))
        strip.paste(right, (attention.width, 0))
        strips.append(strip.resize((1500, round(strip.height * 1500 / strip.width))))
    sheet = Image.new("RGB", (1500, sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


if __name__ == "__main__":
    out = Path(__file__).parent.parent / "docs" / "images" / "attention.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    joined(rows()).save(out, optimize=True)
    print(out)
