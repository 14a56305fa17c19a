"""Advice: situations and what they must get; every name in the table exists; every rule can decide something."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from vitrail.cli import VERBS, main, parse
from vitrail.contracts import VitrailError
from vitrail.jobs.advise import Advice, AdviseConfig, advise, choose
from vitrail.jobs.advise_rules import CHOICES, MEASURED, RULES, Device, Situation, Task, When
from vitrail.models import MODELS
from vitrail.recipes import RECIPES, recipe_config
from vitrail.weights import PRETRAINED

SITUATIONS = {
    "a few photographs of each class": (
        Situation("classify", 120, 480, "cpu", labels_per_class=12),
        ("vit_small_patch14_dinov2", None, 224, "probe"),
    ),
    "many photographs, few of each class": (
        Situation("classify", 5_000, 480, "cuda", labels_per_class=5),
        ("vit_base_patch14_dinov2", None, 518, "probe"),
    ),
    "few photographs, classes unknown": (
        Situation("classify", 499, 300, "mps"),
        ("vit_small_patch14_dinov2", None, 224, "probe"),
    ),
    "ELPV on two cores": (
        Situation("classify", 1_968, 300, "cpu"),
        ("vit_small_patch14_dinov2", None, 224, "train"),
    ),
    "a middling set on a GPU": (
        Situation("classify", 15_000, 300, "cuda", labels_per_class=150),
        ("vit_base_patch14_dinov2", None, 224, "train"),
    ),
    "ImageNet on a GPU": (
        Situation("classify", 1_281_167, 375, "cuda", labels_per_class=1_281),
        ("vit_large_patch14_dinov2", None, 224, "train"),
    ),
    "Fashion-MNIST on two cores": (
        Situation("classify", 60_000, 28, "cpu", labels_per_class=6_000),
        ("vit_tiny_patch16_224", "fashion_mnist", 28, "train"),
    ),
    "Fashion-MNIST on a GPU": (
        Situation("classify", 60_000, 28, "cuda"),
        ("vit_tiny_patch16_224", "fashion_mnist_long", 28, "train"),
    ),
    "few small pictures": (
        Situation("classify", 900, 28, "cpu"),
        ("vit_small_patch14_dinov2", None, 224, "train"),
    ),
    "no labels at all": (
        Situation("classify", 0, 300, "cpu"),
        ("siglip_vit_base_patch16_224", None, 224, "predict"),
    ),
    "an archive on a CPU": (Situation("embed", 50_000, 800, "cpu"), ("vit_small_patch14_dinov2", None, 224, "embed")),
    "an archive on a GPU": (Situation("embed", 50_000, 800, "cuda"), ("vit_large_patch14_dinov2", None, 224, "embed")),
    "a huge archive": (Situation("embed", 5_000_000, 800, "cuda"), ("vit_base_patch14_dinov2", None, 224, "embed")),
    "boxes on a CPU": (Situation("detect", 100, 480, "cpu"), ("detr_resnet50", None, None, "predict")),
    "small boxes on a GPU": (Situation("detect", 100, 1080, "cuda"), ("detr_resnet50_dc5", None, None, "predict")),
    "masks on a laptop": (Situation("segment", 10, 1080, "mps"), ("sam_vit_base_patch16", None, None, "predict")),
    "masks on a GPU": (Situation("segment", 10, 1080, "cuda"), ("sam_vit_large_patch16", None, None, "predict")),
    "words on a CPU": (Situation("zero-shot", 10, 500, "cpu"), ("clip_vit_base_patch32_224", None, 224, "predict")),
    "words on a laptop": (Situation("zero-shot", 9, 500, "mps"), ("siglip_vit_base_patch16_224", None, 224, "predict")),
    "words on a GPU": (
        Situation("zero-shot", 10, 500, "cuda"),
        ("siglip_vit_so400m_patch14_384", None, 384, "predict"),
    ),
    "pictures of 256": (Situation("generate", 8, 256, "cuda"), ("dit_xlarge_patch2_256", None, 256, "sample_latents")),
    "pictures of 512": (Situation("generate", 8, 512, "cpu"), ("dit_xlarge_patch2_512", None, 512, "DDIM")),
}

GRID = [
    Situation(task, images, side, device, labels)
    for task, images, side, device, labels in product(
        get_args(Task), (0, 30, 700, 15_000, 3_000_000), (28, 256, 400, 1080), get_args(Device), (None, 3, 300)
    )
]


@pytest.mark.parametrize("name", SITUATIONS)
def test_situations_get_what_they_must(name: str) -> None:
    situation, (model, recipe, size, in_command) = SITUATIONS[name]
    advice = choose(situation)
    assert (advice.model, advice.recipe, advice.image_size) == (model, recipe, size)
    assert in_command in advice.command and "{" not in advice.command
    decided = [field for reason in advice.reasons for field in reason.chose]
    assert sorted(decided) == sorted(CHOICES)


def test_every_name_in_the_table_exists() -> None:
    for rule in RULES:
        assert set(rule.choice) <= set(CHOICES) and rule.reason and rule.source
        model, weights, recipe = (rule.choice.get(field) for field in ("model", "weights", "recipe"))
        assert model is None or model in MODELS, model
        assert weights is None or weights in PRETRAINED, weights
        assert recipe is None or recipe in RECIPES, recipe
        if model and weights:
            assert PRETRAINED[str(weights)].model == model
        if model and recipe:
            assert recipe_config(str(recipe)).model == model


def test_every_situation_has_an_answer_and_every_rule_decides_somewhere() -> None:
    used = {(reason.condition, reason.reason) for situation in GRID for reason in choose(situation).reasons}
    idle = [str(rule.when) for rule in RULES if (str(rule.when), rule.reason) not in used]
    assert not idle


def test_commands_are_ones_that_the_command_line_takes() -> None:
    for command in {choose(situation).command for situation in GRID}:
        if command.startswith("python:"):
            continue
        program, verb, *rest = command.split()
        assert program == "vitrail" and verb in VERBS
        config = parse(verb, rest)
        assert config.model


@pytest.mark.parametrize(
    ("when", "text"),
    [
        (When("embed"), "embed"),
        (When("classify", images=(0, 500)), "classify, below 500 pictures"),
        (When("classify", side=(448, None), devices=("cuda",)), "classify, from 448 pixels a side, on cuda"),
        (When("embed", labels_per_class=(2, 20)), "embed, 2 to 20 labels a class"),
    ],
)
def test_conditions_say_what_they_are(when: When, text: str) -> None:
    assert str(when) == text


def test_bounds_include_the_first_and_not_the_last() -> None:
    when = When("classify", images=(10, 20))
    found = [images for images in (9, 10, 19, 20) if when.holds(Situation("classify", images, 224, "cpu"))]
    assert found == [10, 19]


def test_a_rule_on_labels_needs_to_know_them() -> None:
    when = When("classify", labels_per_class=(0, 20))
    assert when.holds(Situation("classify", 5, 224, "cpu", 19))
    assert not when.holds(Situation("classify", 5, 224, "cpu", None))


def test_the_shorter_side_counts() -> None:
    found = [
        advise(AdviseConfig(task="generate", images=1, device="cpu", image_size=size)).model
        for size in ("256", "256x900", "900X256", "900x300")
    ]
    assert found == ["dit_xlarge_patch2_256"] * 3 + ["dit_xlarge_patch2_512"]


@pytest.mark.parametrize("size", ["", "0", "12x", "a", "3x4x5", "-5"])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(VitrailError, match="480x640"):
        advise(AdviseConfig(task="embed", images=1, device="cpu", image_size=size))


@pytest.mark.parametrize("numbers", [{"images": -1}, {"images": 3, "labels_per_class": -1}])
def test_negative_numbers_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(VitrailError, match="negative"):
        advise(AdviseConfig(task="embed", device="cpu", **numbers))


def test_what_was_measured_here_stands_in_the_evidence() -> None:
    evidence = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text(encoding="utf-8")
    figures = [figure for rule in RULES if rule.source == MEASURED for figure in re.findall(r"\d+\.\d+ ", rule.reason)]
    assert len(figures) >= 3
    assert [figure for figure in figures if figure not in evidence] == []


def test_the_verb_prints_its_reasons_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["advise", "--task", "classify", "--images", "1968", "--image-size", "300x300", "--device", "cpu"]
    main(arguments)
    shown = capsys.readouterr().out
    assert "vit_small_patch14_dinov2.lvd142m" in shown and "none: the verb's defaults" in shown
    assert "90.24 % (elpv, three seeds) against 87.65 %" in shown and "Steiner et al. 2022" in shown
    main([*arguments, "--json", "--labels-per-class", "5"])
    found = json.loads(capsys.readouterr().out)
    assert found["command"].startswith("vitrail probe DATA --model vit_small")
    assert set(found) == set(Advice.__dataclass_fields__) and found["reasons"][0]["source"]
