"""``vitrail explain``: what a model looked at, as pictures and numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from tyro.conf import Positional

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess, list_pictures, read_picture
from vitrail.explain import (
    AttentionRecord,
    class_maps,
    head_mean,
    mean_of_heads,
    patch_colours,
    picture_of,
    query_maps,
    record,
    rollout_maps,
)
from vitrail.explain.features import colour_panel
from vitrail.explain.figures import head_grid, layer_head_grid, save, two_panel
from vitrail.jobs.inference import Hardware
from vitrail.jobs.models import open_model
from vitrail.jobs.progress import say, track
from vitrail.jobs.settings import Settings, default_out
from vitrail.weights import Artefact


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(Settings):
    """Attention of the class token (or of one patch), per head, per layer and rolled out; patch features as colours.

    Writes PNG files and one NPZ per picture into a folder.
    """

    source: Positional[str]
    """A picture, a folder (searched through) or a glob."""
    model: str = "vit_small_patch14_dinov2"
    """Name of a pretrained model, folder of a run or of an artefact, or a checkpoint file."""
    layer: int = -1
    """Block whose heads are drawn; negative numbers count from the end."""
    patch: tuple[int, int] | None = None
    """Row and column of the patch whose view is drawn. Left out: the class token's."""
    whole: bool = False
    """Take the whole picture at its own aspect, not the crop that evaluation sees."""


@dataclass(frozen=True)
class Explanation:
    """The files of one picture."""

    name: str
    files: tuple[Path, ...]


def explain(config: ExplainConfig) -> list[Explanation]:
    """Draw and save what the model looked at in every picture."""
    artefact = open_model(config.model, config.model_overrides(), online=config.online)
    hardware = Hardware.of(config)
    artefact.model.to(hardware.device).eval()
    out = config.out or default_out("explain", config.source, config.model)
    paths = [Path(path) for path in list_pictures(config.source)]
    explanations = []
    with track("explain", len(paths)) as advance:
        for folder, path in zip(_folders(out, paths), paths, strict=True):
            explanations.append(_explain_one(config, artefact, hardware, path, folder))
            advance(1)
    say(f"{len(paths)} pictures → {out}")
    return explanations


def _folders(out: Path, paths: list[Path]) -> list[Path]:
    """One folder a picture, by its stem; numbered where stems repeat."""
    seen: dict[str, int] = {}
    folders = []
    for path in paths:
        count = seen[path.stem] = seen.get(path.stem, 0) + 1
        folders.append(out / (path.stem if count == 1 else f"{path.stem}-{count}"))
    return folders


def whole_picture(preprocess: Preprocess, picture: Image.Image, patch: tuple[int, int]) -> Preprocess:
    """The preprocessing that keeps all of a picture: short side as before, both sides the nearest whole patches."""
    scale = min(preprocess.size) / min(picture.size)
    height, width = (
        max(1, round(side * scale / step)) * step
        for side, step in zip((picture.height, picture.width), patch, strict=True)
    )
    return replace(preprocess, size=(height, width), resize="squash", crop=1.0)


def _explain_one(
    config: ExplainConfig, artefact: Artefact, hardware: Hardware, path: Path, folder: Path
) -> Explanation:
    model, preprocess = artefact.backbone, artefact.preprocess
    picture = read_picture(path, 1 if model.in_channels == 1 else 3)
    if config.whole:
        preprocess = whole_picture(preprocess, picture, model.patch_size)
    image = preprocess(picture)[None].to(hardware.device)
    # Rows of one query for every head; all rows only as the mean of heads, which is what rollout multiplies.
    rows = record(model, queries=(0 if config.patch is None else config.patch,))
    means = record(model, queries=None, fuse=mean_of_heads)
    with rows as attention, means as mixed, torch.no_grad(), hardware.precision.autocast(hardware.device):
        tokens = model.features(image)
    seen = picture_of(image[0], preprocess.mean, preprocess.std)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VitrailError(f"{folder}: cannot be made ({error.strerror}); give another folder with --out") from error
    figures = {
        **_attention_figures(config, attention, seen),
        "rollout.png": two_panel(seen, rollout_maps(mixed)[0], "attention rollout, all layers"),
        "patches-pca.png": colour_panel(seen, patch_colours(tokens)[0], "patch features, first three components"),
    }
    files = [save(figure, folder / name) for name, figure in figures.items()]
    files.append(attention.to_npz(folder / "attention.npz"))
    return Explanation(str(path), tuple(files))


def _attention_figures(config: ExplainConfig, attention: AttentionRecord, seen: Image.Image) -> dict[str, Figure]:
    whose = "class token" if config.patch is None else f"patch {config.patch[0]}, {config.patch[1]}"
    heads = _maps(config, attention, config.layer)[0]
    layers = torch.stack([_maps(config, attention, layer)[0] for layer in attention.layers])
    where = f"layer {range(len(attention.layers))[config.layer]}"
    return {
        "attention.png": two_panel(
            seen, head_mean(heads[None])[0], f"{whose}, {where}, mean of heads", patch=config.patch
        ),
        "heads.png": head_grid(seen, heads, f"{whose}, {where}"),
        "layers.png": layer_head_grid(layers, title=f"{whose}, every layer and head"),
    }


def _maps(config: ExplainConfig, attention: AttentionRecord, layer: int) -> Float[Tensor, "b heads h w"]:
    return class_maps(attention, layer) if config.patch is None else query_maps(attention, layer, config.patch)
