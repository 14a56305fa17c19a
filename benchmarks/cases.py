"""What `make bench` measures: each case is one `vitrail bench`, and stands in docs/benchmarks.md under its question."""

from __future__ import annotations

from dataclasses import dataclass

TURNS = ("--rounds", "5", "--turn", "0.8")
MAE = ("--model-options", "embed_dim=384", "num_heads=6")
LIGHT = ("decoder_embed_dim=192", "decoder_depth=4", "decoder_num_heads=3")
COMPILED = ("openvino", "openvino-throughput", "compiled-timm", "timm")


@dataclass(frozen=True)
class Case:
    """One table.

    Attributes:
        name: of its files.
        question: what it answers.
        words: behind `vitrail bench`.
        seconds: about how long it takes on two cores.
    """

    name: str
    question: str
    words: tuple[str, ...]
    seconds: int


CASES = (
    Case(
        "vit-b-1",
        "Inference of ViT-B/16, one picture at a time",
        ("vit_base_patch16_224", "--batch-size", "1", "--against", *COMPILED, "transformers", "onnxruntime", *TURNS),
        100,
    ),
    Case(
        "vit-b-16",
        "Inference of ViT-B/16, batches of 16, and what float32 costs",
        ("vit_base_patch16_224", "--batch-size", "16", "--against", *COMPILED, "transformers", "timm:fp32", *TURNS),
        160,
    ),
    Case(
        "vit-b-64",
        "Inference of ViT-B/16, batches of 64",
        ("vit_base_patch16_224", "--batch-size", "64", "--against", *COMPILED, "--rounds", "5", "--turn", "0"),
        230,
    ),
    Case(
        "dinov2-s-224",
        "Inference of DINOv2 ViT-S/14 at 224",
        ("vit_small_patch14_dinov2", "--image-size", "224", "--batch-size", "16", "--against", *COMPILED, *TURNS),
        90,
    ),
    Case(
        "dinov2-s-518",
        "Inference of DINOv2 ViT-S/14 at 518",
        ("vit_small_patch14_dinov2", "--image-size", "518", "--batch-size", "4", "--against", *COMPILED, *TURNS),
        110,
    ),
    Case(
        "swin-t-16",
        "Inference of Swin-T",
        ("swin_tiny_patch4_window7_224", "--batch-size", "16", "--against", *COMPILED, *TURNS),
        120,
    ),
    Case(
        "train-vit-s",
        "A training step of ViT-S/16: forward, backward, clipping, fused AdamW",
        (
            *("vit_small_patch16_224", "--task", "training", "--batch-size", "32"),
            *("--against", "timm", "compiled-timm", "transformers", "--rounds", "5", "--turn", "0"),
        ),
        150,
    ),
    Case(
        "mae-light",
        "A step of MAE with ViT-S/16, 75 % hidden, decoder 192 wide and 4 deep",
        (
            *("mae_vit_base_patch16_224", "--task", "mae", "--batch-size", "32", *MAE, *LIGHT),
            *("--rounds", "5", "--turn", "0"),
        ),
        70,
    ),
    Case(
        "mae",
        "The same with MAE's own decoder, 512 wide and 8 deep",
        (
            *("mae_vit_base_patch16_224", "--task", "mae", "--batch-size", "32", *MAE),
            *("--against", "transformers", "transformers-eager", "--rounds", "5", "--turn", "0"),
        ),
        90,
    ),
    Case(
        "input",
        "JPEG files of 500x375 into training crops of 224, on one core",
        ("--task", "input", "--batch-size", "32", "--rounds", "7", "--turn", "1"),
        30,
    ),
)
