"""DINO and DINOv2 through the engine: they learn, go on bit for bit, and two processes train as one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.methods.processes import run_ranks
from tests.methods.views import SMALL, STILL, TINY, Few, columns, digits_loader, knn_accuracy, run, tiny_vit
from vitrail.contracts import Method
from vitrail.engine import Interrupted, World
from vitrail.methods import DINO, DINOOptions, DINOv2, DINOv2Options
from vitrail.models import VisionTransformer

CROPS = {
    **STILL,
    "local_crops": 2,
    "global_scale": (0.5, 1.0),
    "local_scale": (0.25, 0.5),
    # In both methods something is idle at first: with several processes that is a case of its own.
    "freeze_last_layer": 1,
    "freeze_backbone": 0.3,
    "momentum": 0.98,
    "head_layers": 2,
}
OPTIONS = {"dino": DINOOptions(**{**SMALL, **CROPS}), "dinov2": DINOv2Options(**{**SMALL, **CROPS})}
NAMES = tuple(OPTIONS)


def method(name: str) -> Method:
    torch.manual_seed(0)
    options = OPTIONS[name]
    return DINO(tiny_vit(), options) if isinstance(options, DINOOptions) else DINOv2(tiny_vit(), options)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_the_first_hundred_steps_on_digits_beat_fresh_ones(name, tmp_path):
    torch.manual_seed(0)
    head = {"hidden": 128, "bottleneck": 64, "prototypes": 128, "teacher_temperature": 0.04}
    options = replace(OPTIONS[name], **head, freeze_last_layer=0, freeze_backbone=0.0)
    model = VisionTransformer(replace(TINY, init="jax", positions="sincos"))
    learner = DINO(model, options) if isinstance(options, DINOOptions) else DINOv2(model, options)
    fresh = knn_accuracy(learner.export())
    done = run(learner, Few(digits_loader(options, 32), 20), tmp_path, epochs=5, lr=5e-3)
    assert knn_accuracy(done.model) > fresh + 0.05
    table = columns(tmp_path)
    # All pictures together use many prototypes, and the student comes to agree with the teacher.
    assert table["batch_entropy"][-1] > 2.0
    assert table["kl"][-1] < table["kl"][0] / 2


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_ends_bit_equal(name, tmp_path):
    loader = partial(Few, digits_loader(OPTIONS[name], 16), 3)
    run(method(name), loader(), tmp_path / "whole", checkpoint_every_steps=2)
    with pytest.raises(Interrupted):
        run(method(name), loader(fail_at=5), tmp_path / "killed", checkpoint_every_steps=2)
    # Another beginning: everything that counts comes from the checkpoint.
    other = method(name)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.add_(1.0)
    assert run(other, loader(), tmp_path / "killed", checkpoint_every_steps=2).resumed
    whole, killed = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "killed"))
    assert whole.keys() == killed.keys() and any("teacher" in key for key in whole)
    for key in whole:
        assert torch.equal(whole[key], killed[key]), key
    assert columns(tmp_path / "whole")["loss"] == columns(tmp_path / "killed")["loss"]


def _train(name: str, out: Path, rank: int, ranks: int) -> None:
    world = World(rank, ranks, rank)
    loader = Few(digits_loader(OPTIONS[name], 16 // ranks, world), 4)
    run(method(name), loader, out, world)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_have_the_loss_curve_of_one(name, tmp_path):
    _train(name, tmp_path / "one", 0, 1)
    run_ranks(partial(_train, name, tmp_path / "two"), tmp_path / "ranks")
    one, two = columns(tmp_path / "one"), columns(tmp_path / "two")
    assert one.keys() == two.keys() and len(one["loss"]) == 8
    for column in one:
        if column != "images_per_s":
            assert two[column] == pytest.approx(one[column], rel=2e-4, abs=2e-5), column
    left, right = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("one", "two"))
    for key in left:
        if key.startswith("method/"):
            torch.testing.assert_close(right[key], left[key], atol=2e-4, rtol=2e-3)
