"""The rules of ``vitrail advise``: one table, read from top to bottom.

A rule that holds decides whatever no rule above it has decided: special cases stand first, and what holds for a whole
task stands last. To change the advice, change the table; the tests hold every name in it to what there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Task = Literal["classify", "detect", "segment", "embed", "zero-shot", "generate"]
Device = Literal["cpu", "cuda", "mps"]
Range = tuple[int, int | None]
"""From the first number on, to below the second one (None: without end)."""

CHOICES = ("model", "weights", "recipe", "image_size", "command")
"""What the rules must decide together. In a command, ``{model}``, ``{weights}``, ``{recipe}`` and ``{image_size}``
stand for what was decided."""


@dataclass(frozen=True)
class Situation:
    """What is known of the user's case.

    Attributes:
        task: what is wanted.
        images: how many pictures.
        side: pixels of their shorter side.
        device: what it runs on.
        labels_per_class: None when not known.
    """

    task: Task
    images: int
    side: int
    device: Device
    labels_per_class: int | None = None


@dataclass(frozen=True)
class When:
    """A condition; what is left out does not matter.

    Attributes:
        task: what is wanted.
        devices: what it runs on.
        images, side: numbers of pictures, and pixels of their shorter side.
        labels_per_class: holds only where that number is known.
    """

    task: Task
    devices: tuple[Device, ...] = get_args(Device)
    images: Range = (0, None)
    side: Range = (0, None)
    labels_per_class: Range = (0, None)

    def holds(self, situation: Situation) -> bool:
        """Whether the situation is such a one."""
        labels = situation.labels_per_class
        return (
            situation.task == self.task
            and situation.device in self.devices
            and _within(situation.images, self.images)
            and _within(situation.side, self.side)
            and (self.labels_per_class == (0, None) or (labels is not None and _within(labels, self.labels_per_class)))
        )

    def __str__(self) -> str:
        """In words."""
        ranges = {"pictures": self.images, "pixels a side": self.side, "labels a class": self.labels_per_class}
        parts = [self.task, *(_words(bounds, unit) for unit, bounds in ranges.items() if bounds != (0, None))]
        if self.devices != get_args(Device):
            parts.append(f"on {' or '.join(self.devices)}")
        return ", ".join(parts)


def _within(value: int, bounds: Range) -> bool:
    return bounds[0] <= value and (bounds[1] is None or value < bounds[1])


def _words(bounds: Range, unit: str) -> str:
    least, below = bounds
    if below is None:
        return f"from {least:,} {unit}"
    return f"below {below:,} {unit}" if least == 0 else f"{least:,} to {below:,} {unit}"


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
        when: the condition.
        choice: what it decides, by the names in ``CHOICES``.
        reason: why.
        source: where that is from.
    """

    when: When
    choice: Mapping[str, str | int | None]
    reason: str
    source: str


MEASURED = "measured here: docs/evidence.md"
DINOV2 = "Oquab et al. 2023, 'DINOv2', section 7, and its model card"
STEINER = "Steiner et al. 2022, 'How to train your ViT?'"

SMALL = {"model": "vit_small_patch14_dinov2", "weights": "vit_small_patch14_dinov2.lvd142m"}
BASE = {"model": "vit_base_patch14_dinov2", "weights": "vit_base_patch14_dinov2.lvd142m"}
LARGE = {"model": "vit_large_patch14_dinov2", "weights": "vit_large_patch14_dinov2.lvd142m"}
TRAIN = "vitrail train DATA --model {weights} --image-size {image_size}"
PROBE = "vitrail probe DATA --model {weights} --image-size {image_size}"
EMBED = "vitrail embed PICTURES --model {weights} --image-size {image_size}"
PREDICT = "vitrail predict PICTURES --model {weights}"
WORDS = "vitrail predict PICTURES --model {weights} --labels CLASS CLASS"

RULES: tuple[Rule, ...] = (
    # ------------------------------------------------------------------ classify: which model
    Rule(
        When("classify", images=(0, 1)),
        {
            "model": "siglip_vit_base_patch16_224",
            "weights": "google/siglip-base-patch16-224",
            "recipe": None,
            "image_size": 224,
            "command": WORDS,
        },
        "Without a labelled picture the classes can only be said in words: see --task zero-shot.",
        "Zhai et al. 2023, 'SigLIP'",
    ),
    Rule(
        When("classify", devices=("cuda",), images=(10_000, None), side=(0, 48)),
        {
            "model": "vit_tiny_patch16_224",
            "weights": None,
            "recipe": "fashion_mnist_long",
            "image_size": 28,
            "command": "vitrail train DATA --recipe {recipe}",
        },
        "Pictures this small leave weights made for 224 pixels little to see; with so many of them a small ViT with "
        "patches of 2 pixels learns from scratch in the time that a GPU has for 200 epochs. The recipe is for grey "
        "pictures; colour ones need in_channels=3 among its --model-options.",
        "recipe fashion_mnist_long, whose 95 % are a goal that is not measured yet",
    ),
    Rule(
        When("classify", images=(10_000, None), side=(0, 48)),
        {
            "model": "vit_tiny_patch16_224",
            "weights": None,
            "recipe": "fashion_mnist",
            "image_size": 28,
            "command": "vitrail train DATA --recipe {recipe}",
        },
        "Pictures this small leave weights made for 224 pixels little to see; with so many of them a small ViT with "
        "patches of 4 pixels learns from scratch in minutes: 91.78 % on Fashion-MNIST in 11 minutes on 2 cores. The "
        "recipe is for grey pictures; colour ones need in_channels=3 among its --model-options.",
        MEASURED,
    ),
    Rule(
        When("classify", devices=("cuda",), images=(20_000, None)),
        LARGE,
        "Transferred weights beat training from scratch at nearly every size of a data set, and cost less; frozen, "
        "these give 86.3 % on ImageNet (base 84.5 %, small 81.1 %), and a GPU fine-tunes them on so many in hours.",
        f"{STEINER}; {DINOV2}",
    ),
    Rule(
        When("classify", devices=("cuda",)),
        BASE,
        "Transferred weights beat training from scratch at nearly every size of a data set, and cost less; a larger "
        "model gains little on few pictures and costs 3.5 times as much.",
        f"{STEINER}; {DINOV2}",
    ),
    Rule(
        When("classify"),
        SMALL,
        "Transferred weights beat training from scratch at nearly every size of a data set, and cost less; the small "
        "ones fine-tune on 1,968 pictures in 11 minutes on 2 CPU cores.",
        f"{STEINER}; {MEASURED}",
    ),
    # ------------------------------------------------------------------ classify: how
    Rule(
        When("classify", labels_per_class=(0, 20)),
        {"recipe": None, "command": PROBE},
        "A handful of labels determines a linear classifier on frozen features, but not millions of weights.",
        DINOV2,
    ),
    Rule(
        When("classify", images=(0, 500)),
        {"recipe": None, "command": PROBE},
        "A few hundred pictures determine a linear classifier on frozen features, but not millions of weights; it also "
        "takes a minute or two, and can start a fine-tuning later (--head FOLDER).",
        DINOV2,
    ),
    Rule(
        When("classify"),
        {"recipe": None, "command": TRAIN},
        "With enough labels a gentle recipe beats the probe: 90.24 % (elpv, three seeds) against 87.65 % on 1,968 "
        "training pictures, where 2e-4 for all layers alike ended at 78 %. The defaults, the fine-tuning recipe of "
        "DeiT and BEiT, were not measured on them: compare with vitrail probe. For pictures without a right way up, "
        "and few epochs, see the recipe elpv.",
        MEASURED,
    ),
    # ------------------------------------------------------------------ embed
    Rule(
        When("embed", devices=("cuda",), images=(0, 1_000_000)),
        LARGE,
        "Features that serve retrieval, clustering and linear classifiers as they are; large is the last size that "
        "gains much (linear probe on ImageNet: 81.1, 84.5, 86.3, 86.5 %).",
        DINOV2,
    ),
    Rule(
        When("embed", devices=("cuda", "mps")),
        BASE,
        "Features that serve retrieval, clustering and linear classifiers as they are; base costs under a third of "
        "large and loses two points, which counts over a million pictures or without a data-centre GPU.",
        DINOV2,
    ),
    Rule(
        When("embed"),
        SMALL,
        "Features that serve retrieval, clustering and linear classifiers as they are; small costs a "
        "quarter of base, which is what counts on a CPU.",
        DINOV2,
    ),
    Rule(
        When("embed"),
        {"recipe": None, "command": EMBED},
        "Features are taken frozen: nothing is to be learned.",
        DINOV2,
    ),
    # ------------------------------------------------------------------ size of the pictures, DINOv2
    Rule(
        When("classify", devices=("cuda",), side=(448, None)),
        {"image_size": 518},
        "The weights were finished at 518 pixels, and pictures of this size have that much to show; attention costs "
        "with the fourth power of the side, so only on a GPU.",
        "Oquab et al. 2023, 'DINOv2', section 4, 'Adapting the resolution'",
    ),
    Rule(
        When("classify"),
        {"image_size": 224},
        "256 patches of 14 pixels: the usual size, at which the cost stays small.",
        DINOV2,
    ),
    Rule(
        When("embed"),
        {"image_size": 224},
        "256 patches of 14 pixels: the usual size, at which the cost stays small.",
        DINOV2,
    ),
    # ------------------------------------------------------------------ detect
    Rule(
        When("detect", devices=("cuda",), side=(640, None)),
        {"model": "detr_resnet50_dc5", "weights": None},
        "The last stage is dilated, which finds small objects better (AP of small ones 22.5 against 20.5) for twice "
        "the cost.",
        "Carion et al. 2020, 'DETR', table 1",
    ),
    Rule(
        When("detect"),
        {"model": "detr_resnet50", "weights": None},
        "Boxes without anchors or suppression: 42.0 AP on COCO with a ResNet-50.",
        "Carion et al. 2020, 'DETR', table 1",
    ),
    Rule(
        When("detect"),
        {"recipe": None, "image_size": None, "command": "vitrail predict PICTURES --model CHECKPOINT"},
        "For COCO's classes, with the checkpoint of that name of its authors or of Transformers (facebook/detr-…): "
        "training a detector on other classes is not here yet. Pictures are brought to a short side of 800 pixels.",
        "Carion et al. 2020, 'DETR', section 4",
    ),
    # ------------------------------------------------------------------ segment
    Rule(
        When("segment", devices=("cuda",)),
        {"model": "sam_vit_large_patch16", "weights": "facebook/sam-vit-large"},
        "Masks of clicks, boxes, or everything, without training; ViT-L is clearly better than ViT-B, and ViT-H hardly "
        "better than that for twice the cost.",
        "Kirillov et al. 2023, 'Segment Anything', section 7.6",
    ),
    Rule(
        When("segment"),
        {"model": "sam_vit_base_patch16", "weights": "facebook/sam-vit-base"},
        "Masks of clicks, boxes, or everything, without training; the encoder looks at 1,024 pixels (486 billion "
        "multiply-adds), so without a data-centre GPU only the smallest is quick enough. One encoding serves any "
        "number of clicks.",
        "Kirillov et al. 2023, 'Segment Anything', section 3",
    ),
    Rule(
        When("segment"),
        {"recipe": None, "image_size": None, "command": PREDICT},
        "Masks have no classes; training a segmenter of classes is not here yet.",
        "Kirillov et al. 2023, 'Segment Anything', section 3",
    ),
    # ------------------------------------------------------------------ zero-shot
    Rule(
        When("zero-shot", devices=("cuda",), side=(384, None)),
        {"model": "siglip_vit_so400m_patch14_384", "weights": "google/siglip-so400m-patch14-384", "image_size": 384},
        "The best of its kind here: 83.2 % on ImageNet without a label.",
        "Zhai et al. 2023, 'SigLIP', and its model card",
    ),
    Rule(
        When("zero-shot", devices=("cuda", "mps")),
        {"model": "siglip_vit_base_patch16_224", "weights": "google/siglip-base-patch16-224", "image_size": 224},
        "The sigmoid loss, on more pictures, made a stronger ViT-B/16 than CLIP's of the same cost.",
        "Zhai et al. 2023, 'SigLIP'",
    ),
    Rule(
        When("zero-shot"),
        {"model": "clip_vit_base_patch32_224", "weights": "openai/clip-vit-base-patch32", "image_size": 224},
        "49 patches of 32 pixels cost a quarter of the usual 196 of 16: 63.2 % on ImageNet without a label.",
        "Radford et al. 2021, 'CLIP', table 11",
    ),
    Rule(
        When("zero-shot"),
        {"recipe": None, "command": WORDS},
        "The classes are said in words. With labelled pictures, a probe on DINOv2 (--task classify) is usually better.",
        "Radford et al. 2021, 'CLIP', section 3",
    ),
    # ------------------------------------------------------------------ generate
    Rule(
        When("generate", side=(257, None)),
        {"model": "dit_xlarge_patch2_512", "weights": None, "image_size": 512},
        "Of all sizes only XL/2 is published, at 256 and 512 pixels: FID 3.04 on ImageNet at 512.",
        "Peebles & Xie 2023, 'DiT', table 3",
    ),
    Rule(
        When("generate"),
        {"model": "dit_xlarge_patch2_256", "weights": None, "image_size": 256},
        "Of all sizes only XL/2 is published, at 256 and 512 pixels: FID 2.27 on ImageNet at 256.",
        "Peebles & Xie 2023, 'DiT', table 2",
    ),
    Rule(
        When("generate", devices=("cuda",)),
        {
            "recipe": None,
            "command": "python: sample_latents(load_checkpoint('CHECKPOINT').model, labels) of vitrail.models",
        },
        "250 steps of DDPM with guidance, as the published figures were made. Latents are turned into pictures by the "
        "autoencoder that they belong to, and training a generator is not here yet.",
        "Peebles & Xie 2023, 'DiT', section 4",
    ),
    Rule(
        When("generate"),
        {
            "recipe": None,
            "command": "python: sample_latents(load_checkpoint('CHECKPOINT').model, labels, step=DDIM(), "
            "schedule=linear_schedule().spaced(50, 'leading')) of vitrail.models",
        },
        "119 billion multiply-adds a step and twice that with guidance: DDIM needs 50 steps where DDPM needs 250. "
        "Latents are turned into pictures by the autoencoder that they belong to.",
        "Song et al. 2021, 'DDIM', table 1; Peebles & Xie 2023, 'DiT', section 4",
    ),
)
