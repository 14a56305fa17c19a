"""The preprocessing that stands beside other people's checkpoints, and writing ours for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitrail.contracts import VitrailError
from vitrail.data.preprocess import HALF_MEAN, HALF_STD, IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocess, Resize
from vitrail.weights.files import CheckpointError, Raw

PILLOW: dict[int, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of its filters, as Transformers stores them."""


def crop_share(size: int, resized: int) -> float:
    """The ``crop`` whose resized side, ``floor(size / crop)``, is exactly ``resized``."""
    crop = size / resized
    return crop if int(size / crop) == resized else math.nextafter(crop, 0.0)


def stored_preprocess(raw: Raw) -> Preprocess | None:
    """What the files beside the weights say, None when they say nothing.

    Raises:
        CheckpointError: a preprocessing that cannot be had here.
    """
    try:
        if raw.preprocessor:
            return from_transformers(raw.preprocessor)
        if raw.config.get("pretrained_cfg"):
            return from_timm(raw.config["pretrained_cfg"])
    except (VitrailError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{raw.path.parent}: its preprocessing cannot be understood: {error}") from error
    return None


def from_timm(cfg: Mapping[str, Any]) -> Preprocess:
    """From timm's ``pretrained_cfg``."""
    modes: dict[str, Resize] = {"center": "shortest", "squash": "squash"}
    interpolation = cfg.get("interpolation", "bicubic")
    return Preprocess(
        size=(int(cfg["input_size"][1]), int(cfg["input_size"][2])),
        crop=float(cfg.get("crop_pct") or 0.875),
        resize=modes[cfg.get("crop_mode") or "center"],
        interpolation="bicubic" if interpolation == "random" else interpolation,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
    )


def to_timm(preprocess: Preprocess) -> dict[str, Any]:
    """The part of timm's ``pretrained_cfg`` that is preprocessing."""
    return {
        "crop_pct": preprocess.crop,
        # Filled-up pictures are not to be had: timm's own configs of such models say "center".
        "crop_mode": "squash" if preprocess.resize == "squash" else "center",
        "interpolation": preprocess.interpolation,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }


def from_transformers(values: Mapping[str, Any]) -> Preprocess:
    """From Transformers' ``preprocessor_config.json``, of any age."""
    bounds = _bounds(values)
    if bounds is not None:
        return Preprocess(
            size=bounds,
            crop=1.0,
            resize="bounded",
            interpolation=PILLOW[values.get("resample", 2)],
            mean=tuple(values.get("image_mean") or IMAGENET_MEAN),
            std=tuple(values.get("image_std") or IMAGENET_STD),
        )
    size, resize = _resized(values["size"])
    if resize == "longest":
        return _filled_up(values, size)
    kind = values.get("image_processor_type") or values.get("feature_extractor_type") or ""
    if isinstance(values["size"], int) and kind.startswith("CLIP"):
        resize = "shortest"  # One number was both sides for the other processors of that time.
    if kind.startswith("ConvNext"):
        return _of_convnext(values, size[0])
    cut = values.get("crop_size") if values.get("do_center_crop", "crop_size" in values) else None
    out = _resized(cut)[0] if cut is not None else size
    return Preprocess(
        size=out,
        crop=crop_share(out[0], size[0]),
        resize=resize,
        interpolation=PILLOW[values.get("resample", 2)],
        mean=tuple(values.get("image_mean") or HALF_MEAN),
        std=tuple(values.get("image_std") or HALF_STD),
    )


def _of_convnext(values: Mapping[str, Any], size: int) -> Preprocess:
    """ConvNeXt's processor, which published ResNets have too: it cuts a share out below 384 pixels, else squashes."""
    small = size < 384
    return Preprocess(
        size=(size, size),
        crop=crop_share(size, int(size / (values.get("crop_pct") or 224 / 256))) if small else 1.0,
        resize="shortest" if small else "squash",
        interpolation=PILLOW[values.get("resample", 3)],
        mean=tuple(values.get("image_mean") or HALF_MEAN),
        std=tuple(values.get("image_std") or HALF_STD),
    )


def _bounds(values: Mapping[str, Any]) -> tuple[int, int] | None:
    """Short side and the most of the long one, where a processor has both."""
    size = values["size"]
    if isinstance(size, int) and values.get("max_size"):
        return size, values["max_size"]
    if isinstance(size, Mapping) and {"shortest_edge", "longest_edge"} <= size.keys():
        return size["shortest_edge"], size["longest_edge"]
    return None


def _to_transformers_filled_up(preprocess: Preprocess) -> dict[str, Any]:
    height, width = preprocess.size
    if height != width:
        raise CheckpointError("Transformers' processors fill pictures up to squares")
    return {
        "image_processor_type": "SamImageProcessor",
        "do_resize": True,
        "size": {"longest_edge": height},
        **_values(preprocess),
        "do_pad": True,
        "pad_size": {"height": height, "width": width},
        "mask_size": {"longest_edge": height // 4},
        "mask_pad_size": {"height": height // 4, "width": width // 4},
    }


def _filled_up(values: Mapping[str, Any], size: tuple[int, int]) -> Preprocess:
    if not values.get("do_pad", True) or _resized(values.get("pad_size") or size)[0] != size:
        raise VitrailError(f"pictures of a longest side of {size[0]} that are not filled up to that on both sides")
    return Preprocess(
        size=size,
        crop=1.0,
        resize="longest",
        interpolation=PILLOW[values.get("resample", 2)],
        mean=tuple(values.get("image_mean") or IMAGENET_MEAN),
        std=tuple(values.get("image_std") or IMAGENET_STD),
    )


def _resized(size: int | Mapping[str, int] | list[int] | tuple[int, int]) -> tuple[tuple[int, int], Resize]:
    if isinstance(size, int):
        return (size, size), "squash"
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            return (size["shortest_edge"], size["shortest_edge"]), "shortest"
        if "longest_edge" in size:
            return (size["longest_edge"], size["longest_edge"]), "longest"
        return (size["height"], size["width"]), "squash"
    return (size[0], size[1]), "squash"


def to_transformers(preprocess: Preprocess) -> dict[str, Any]:
    """A ``preprocessor_config.json`` that Transformers' image processors take."""
    height, width = preprocess.size
    if preprocess.resize == "bounded":
        return {
            "image_processor_type": "DetrImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": height, "longest_edge": width},
            **_values(preprocess),
            "do_pad": True,
        }
    if preprocess.resize == "longest":
        return _to_transformers_filled_up(preprocess)
    box = {"height": int(height / preprocess.crop), "width": int(width / preprocess.crop)}
    if preprocess.resize == "shortest":
        if height != width:
            raise CheckpointError("Transformers' processors cut a square out of a picture resized by its short side")
        kind, size = "BitImageProcessor", {"shortest_edge": box["height"]}
    else:
        kind, size = ("ViTImageProcessor" if preprocess.crop == 1.0 else "DeiTImageProcessor"), box
    crops = kind != "ViTImageProcessor"
    return {
        "image_processor_type": kind,
        "do_resize": True,
        "size": size,
        **({"do_center_crop": True, "crop_size": {"height": height, "width": width}} if crops else {}),
        **_values(preprocess),
    }


def _values(preprocess: Preprocess) -> dict[str, Any]:
    """What becomes of the pixels' values, which all processors call the same."""
    return {
        "resample": next(number for number, name in PILLOW.items() if name == preprocess.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
