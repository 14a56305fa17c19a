"""Token merging on solar cells and on a photograph: what it costs in accuracy, and what its maps look like.

Run: python studies/merging.py encode COUNT [COUNT …]   features of all pictures of ELPV at 518 with the real DINOv2
                                                        ViT-S/14, COUNT patches merged a block (0 for none); a killed
                                                        run goes on where it was
     python studies/merging.py scores                   nearest neighbours and linear probes of all counts, on
                                                        the pictures that all of them have encoded so far
     python studies/merging.py picture COUNT            docs/images/merging.jpg: maps with and without
(extra: demo.) Features are kept in runs/merging; encoding at 0 takes about six minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from folds import linear_right, lost_and_won, right_in_folds
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data
from torch import Tensor

from vitrail.data import Source, SubsetSource, open_data
from vitrail.explanations import head_mean, overlay, patch_colours, picture_of, rows_of, shared_basis, watch
from vitrail.explanations.figures import to_image
from vitrail.explanations.given import Given
from vitrail.explanations.strips import Strip, draw_strips
from vitrail.jobs.embed import FeatureVector
from vitrail.jobs.inference import Hardware, make_ready, run_source
from vitrail.jobs.models import open_model, with_crop
from vitrail.jobs.probe import ProbeConfig
from vitrail.metrics import knn_probabilities
from vitrail.models import Backbone
from vitrail.nn.tokens import Tokens
from vitrail.speed import merged

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "runs" / "merging"
PICTURE = ROOT / "docs" / "images" / "merging.jpg"
CONFIG = ProbeConfig(data="elpv", image_size=518, crop=1.0, batch_size=8, workers=0)
CHUNKS = 41
"""Pieces of both parts; a killed run loses one at most, 64 pictures."""


def parts() -> dict[str, Source]:
    """The probe's own split, each part in a seeded order, so that its beginning is a fair sample of it."""
    splits = open_data(CONFIG.data, val_fraction=CONFIG.val_fraction, seed=CONFIG.split_seed)
    chance = torch.Generator().manual_seed(0)
    return {
        name: SubsetSource(source, torch.randperm(len(source), generator=chance).tolist())
        for name, source in (("train", splits.train), ("val", splits.val))
    }


def encode(count: int) -> None:
    """Class token and mean of the patches of every picture, a file for each chunk of both parts."""
    artefact = with_crop(open_model(CONFIG.model, CONFIG.model_overrides()), CONFIG.crop)
    model, hardware = make_ready(merged(artefact.backbone.eval(), count), Hardware.of(CONFIG), CONFIG.batch_size)
    call = FeatureVector(model, CONFIG.pool)
    (FOLDER / str(count)).mkdir(parents=True, exist_ok=True)
    for chunk in range(CHUNKS):
        for part, source in parts().items():
            file = file_of(count, part, chunk)
            if file.exists():
                continue
            bounds = [len(source) * number // CHUNKS for number in (chunk, chunk + 1)]
            some = SubsetSource(source, list(range(*bounds)))
            outputs = run_source(call, some, artefact.preprocess, CONFIG, hardware, f"{count}: {file.stem}")
            temporary = file.with_suffix(".tmp")
            save_file({"values": outputs.values, "labels": outputs.labels}, temporary)
            temporary.replace(file)


def file_of(count: int, part: str, chunk: int) -> Path:
    """Where the features of a chunk are kept."""
    return FOLDER / str(count) / f"{part}-{chunk:02d}.safetensors"


def features(count: int, part: str, chunks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Values and labels of some chunks of a part."""
    files = [load_file(file_of(count, part, chunk)) for chunk in chunks]
    return torch.cat([file["values"] for file in files]), torch.cat([file["labels"] for file in files])


def scores() -> None:
    """For every count, on the pictures that all of them have encoded: the probe's own split, and five folds of all."""
    classes = parts()["val"].classes
    counts = sorted(int(folder.name) for folder in FOLDER.iterdir())
    chunks = [
        n for n in range(CHUNKS) if all(file_of(c, part, n).exists() for c in counts for part in ("train", "val"))
    ]
    right = {}
    for count in counts:
        (train, train_labels), (val, val_labels) = (features(count, part, chunks) for part in ("train", "val"))
        votes = knn_probabilities(train, train_labels, val, len(classes), CONFIG.k)
        knn = float((votes.argmax(dim=1) == val_labels).float().mean())
        linear = float(linear_right(train, train_labels, val, val_labels).float().mean())
        right[count] = right_in_folds(torch.cat([train, val]), torch.cat([train_labels, val_labels]))
        print(
            f"{count:3d} patches a block: linear probe {100 * linear:.2f} %, {CONFIG.k} neighbours {100 * knn:.2f} % "
            f"of {len(val)} (from {len(train)}); linear probe in five folds "
            f"{100 * float(right[count].float().mean()):.2f} % of {len(right[count])}"
        )
    for count in counts[1:]:
        lost, won = lost_and_won(right[counts[0]], right[count])
        print(f"{count} against {counts[0]}, in five folds: {lost} pictures lost, {won} won")


def looks_of(model: Backbone, image: Tensor, seen: Image.Image) -> tuple[Image.Image, Image.Image, Tokens]:
    """What the tokens in front of the last layer stand for, the class token's map there, and the features."""
    given: dict[int, Given] = {}
    with watch(model, given.__setitem__, (-1,)), torch.no_grad():
        tokens = model.features(image)
    (last,) = given.values()
    values = head_mean(rows_of(last).maps()[:, :, 0])[0]
    return tokens_as_picture(last.tokens, seen), Image.fromarray(overlay(seen, values)), tokens


def tokens_as_picture(tokens: Tokens, seen: Image.Image) -> Image.Image:
    """The picture with the mean colour of its token in every patch."""
    height, width = tokens.grid
    pixels = torch.from_numpy(np.asarray(seen.resize((width, height), Image.Resampling.BOX), dtype=np.float32))
    places = tokens.places[0, tokens.prefix :] - tokens.prefix
    sums = torch.zeros(len(tokens.patches[0]), 3).index_add(0, places, pixels.flatten(0, 1))
    means = sums / tokens.sizes[0, tokens.prefix :, None]
    small = means[places].unflatten(0, (height, width)).round().to(torch.uint8).numpy()
    return Image.fromarray(small).resize(seen.size, Image.Resampling.NEAREST)


def picture(count: int) -> None:
    """A row for the plain model and one with merging: tokens, the class token's map, the patches' colours."""
    artefact = open_model(CONFIG.model, CONFIG.model_overrides())
    plain = artefact.backbone.eval()
    photograph = Image.fromarray(data.chelsea())
    preprocess = artefact.preprocess.whole(photograph, plain.patch_size)
    image = preprocess(photograph)[None]
    seen = picture_of(image[0], preprocess.mean, preprocess.std)
    looks = [looks_of(model, image, seen) for model in (plain, merged(plain, count))]
    basis = shared_basis([tokens for _, _, tokens in looks])
    strips = []
    for title, (pieces, attention, tokens) in zip(("plain", f"{count} merged\na block"), looks, strict=True):
        colours = (patch_colours(tokens, basis=basis)[0].numpy() * 255).round().astype(np.uint8)
        painted = Image.fromarray(colours).resize(seen.size, Image.Resampling.NEAREST)
        strips.append(Strip(title, [pieces, attention, painted]))
    drawn = to_image(draw_strips(strips, side=2.0)).convert("RGB")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    drawn.save(PICTURE, quality=88, optimize=True)
    print(f"{PICTURE.name}: {drawn.width} × {drawn.height}, {PICTURE.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("encode", "scores", "picture"))
    parser.add_argument("counts", type=int, nargs="*")
    given = parser.parse_args()
    if given.step == "scores":
        scores()
    for count in given.counts:
        {"encode": encode, "picture": picture}[given.step](count)


if __name__ == "__main__":
    main()
