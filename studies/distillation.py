"""What a convolutional teacher gives to a small transformer on few pictures: DeiT's experiment on Fashion-MNIST.

Run: python studies/distillation.py --seeds 0 1 2 --out runs/distillation
Quick look: python studies/distillation.py --seeds 0 --epochs 3 --teacher-epochs 3 --pictures 1000 --out runs/look

For each seed, on the same 5,000 labelled pictures (500 of each class, chosen by the seed) and measured on the 10,000
test pictures: a ResNet with a stem for small pictures; a ViT with a distillation token without teacher; and the same
ViT, with the same first weights and the same batches, taught by the ResNet's choices (hard) and by its probabilities
(soft). Killed, the same command goes on: finished runs are read, the unfinished one continues.

The same by hand, for seed 0:
    vitrail train fashion-mnist --train-limit 5000 --model resnet18 --no-pretrained --image-size 28 \
        --model-options in_channels=1 "depths=[1,1,1,1]" stem=small --out runs/teacher
    vitrail train fashion-mnist --train-limit 5000 --model deit_tiny_distilled_patch16_224 --no-pretrained \
        --image-size 28 --patch-size 4 \
        --model-options in_channels=1 embed_dim=128 depth=6 num_heads=2 positions=sincos init=jax \
        --teacher runs/teacher --distillation soft --distillation-weight 0.9 --out runs/student
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

import vitrail
from vitrail.jobs.train_config import TrainConfig

KINDS = ("teacher", "alone", "hard", "soft")
SHARE = {"hard": 0.5, "soft": 0.9}
"""Of the teacher in the loss; DeiT's 0.1 for soft answers keeps to the labels, and 5,000 of them say too little."""


def shared(pictures: int, seed: int, out: Path) -> TrainConfig:
    """What all runs of a seed have in common."""
    return TrainConfig(
        data="fashion-mnist",
        model="",
        pretrained=False,
        image_size=28,
        train_limit=pictures,
        crop=1.0,
        seed=seed,
        out=out,
        batch_size=64,
        layer_decay=1.0,
        randaugment=None,
        crop_scale=(0.6, 1.0),
        erasing=0.0,
        mixup=0.0,
        cutmix=0.0,
        smoothing=0.1,
        drop_path=0.0,
        ema_decay=0.999,
        workers=0,
        eval_every=10,
    )


def teacher_config(base: TrainConfig, epochs: int) -> TrainConfig:
    """A ResNet of four blocks that keeps all 28 rows and columns in its first stage."""
    return replace(
        base,
        model="resnet18",
        model_options=("in_channels=1", "depths=[1,1,1,1]", "stem=small"),
        epochs=epochs,
        lr=2e-3,
    )


def student_config(base: TrainConfig, epochs: int, teacher: Path | None, kind: str) -> TrainConfig:
    """Patches of 4 pixels, 6 blocks of width 128, with a distillation token whether there is a teacher or not.

    Small batches, for it is the number of steps that a student on few pictures lacks.
    """
    config = replace(
        base,
        model="deit_tiny_distilled_patch16_224",
        patch_size=4,
        model_options=(
            *("in_channels=1", "embed_dim=128", "depth=6", "num_heads=2"),
            *("positions=sincos", "init=jax"),
        ),
        epochs=epochs,
        batch_size=32,
        lr=1e-3,
        smoothing=0.0,
    )
    if teacher is None:
        return config
    return replace(config, teacher=str(teacher), distillation=kind, distillation_weight=SHARE[kind])


def measure(kind: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """The figures of one finished run, trained first where there is none yet."""
    out = options.out / f"{kind}-{seed}"
    if not (out / "metrics.json").exists():
        base = shared(options.pictures, seed, out)
        teacher = None if kind == "alone" else options.out / f"teacher-{seed}"
        config = (
            teacher_config(base, options.teacher_epochs)
            if kind == "teacher"
            else student_config(base, options.epochs, teacher, kind)
        )
        vitrail.train(config)
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=30, help="of the students")
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"))
    options = parser.parse_args()
    # Seed by seed, so that an interrupted study has compared all kinds on the seeds it finished.
    runs = {(kind, seed): measure(kind, seed, options) for seed in options.seeds for kind in KINDS}
    table = Table("", "accuracy, %", "mean ± spread", "against alone", "minutes")
    for kind in KINDS:
        scores = [100 * runs[kind, seed]["accuracy"] for seed in options.seeds]
        gains = [
            score - 100 * runs["alone", seed]["accuracy"] for score, seed in zip(scores, options.seeds, strict=True)
        ]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        minutes = statistics.mean(runs[kind, seed]["seconds"] / 60 for seed in options.seeds)
        each = " ".join(f"{score:.2f}" for score in scores)
        gain = f"{statistics.mean(gains):+.2f}" if kind != "alone" else ""
        table.add_row(kind, each, f"{statistics.mean(scores):.2f} ± {spread:.2f}", gain, f"{minutes:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
