"""DINOv3 as a backbone: sizes, rotary places, training, saving, recording."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.explanations import record
from vitrail.models import DINOv3, build, config_of
from vitrail.nn.tokens import take_patches
from vitrail.weights import Artefact

from .peers import perturb, pictures
from .tiny_dinov3 import TINY

COUNTS = {
    # timm's counts of the same sizes (its _qkvb variants), and the mask token that it leaves out.
    "vit_small_patch16_dinov3": 21_596_160 + 384,
    "vit_small_plus_patch16_dinov3": 28_692_480 + 384,
    "vit_base_patch16_dinov3": 85_659_648 + 768,
    "vit_large_patch16_dinov3": 303_128_576 + 1024,
    "vit_huge_plus_patch16_dinov3": 840_591_360 + 1280,
    "vit_7b_patch16_dinov3": 6_716_030_976 + 4096,
}


def tiny(name: str = "vit_small_patch16_dinov3", **options: object) -> DINOv3:
    torch.manual_seed(0)
    model = build(config_of(name, {**TINY[name], "num_classes": 5, **options}))
    assert isinstance(model, DINOv3)
    perturb(model)
    return model


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_exact_parameter_count(name: str, count: int) -> None:
    with torch.device("meta"):
        model = build(config_of(name))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("name", TINY)
def test_training_reaches_every_parameter_and_roles_name_them(name: str) -> None:
    model = tiny(name).train()
    model(pictures(48, 32)).square().sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()} == {"mask_token"}
    roles = model.roles()
    assert roles.keys() == dict(model.named_parameters()).keys()
    assert roles["blocks.1.attn.qkv.weight"].depth == 2 and roles["head.weight"].depth == 3
    vectors = {n for n, p in model.named_parameters() if p.ndim == 1}
    assert {n for n, role in roles.items() if not role.decay} == vectors | {"cls_token", "reg_token", "mask_token"}


def test_places_are_disturbed_while_training_alone() -> None:
    model, images = tiny(), pictures(48, 48)
    with torch.no_grad():
        assert not torch.equal(model.train()(images), model(images))
        assert torch.equal(model.eval()(images), model(images))
        still = tiny(rope_rescale=None).train()
        assert torch.equal(still(images), model(images))


def test_kept_patches_are_turned_by_their_own_places() -> None:
    model, images = tiny().eval(), pictures(48, 48)
    order = torch.stack([torch.randperm(9, generator=torch.Generator().manual_seed(s)) for s in (0, 1)])
    with torch.no_grad():
        full = model.features(images)
        mixed = model.encode(model.embed(images, keep=order))
    torch.testing.assert_close(mixed.patches, take_patches(full.patches, order))
    tiny(patch_drop=0.5).train()(images)


@pytest.mark.parametrize("name", TINY)
def test_an_artefact_is_the_same_model_and_periods_are_kept(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    model.rope.periods.mul_(1.001)
    Artefact(model, (), Preprocess(size=model.img_size)).save_pretrained(tmp_path)
    again = Artefact.from_pretrained(tmp_path).model
    assert again.config == model.config and torch.equal(again.rope.periods, model.rope.periods)
    with torch.no_grad():
        assert torch.equal(again(pictures(48, 32)), model(pictures(48, 32)))


def test_attention_is_recorded_with_its_places() -> None:
    model, images = tiny().eval(), pictures(48, 32)
    with record(model, queries=None) as attention, torch.no_grad():
        model(images)
    layer = attention[1]
    assert layer.weights.shape == (2, 2, 11, 11) and layer.grid == (3, 2) and layer.prefix == 5
    torch.testing.assert_close(layer.weights.sum(-1), torch.ones(2, 2, 11))
    assert attention.maps(1).shape == (2, 2, 11, 3, 2)
    assert [tuple(m.shape) for m in model.feature_maps(images)] == [(2, 16, 3, 2)] * 2


def test_a_size_that_patches_do_not_divide_is_refused_padded_or_resized() -> None:
    odd = pictures(47, 40)
    with pytest.raises(VitrailError, match="height 47 is not a multiple of the patch size 16: use 32 or 48"):
        tiny()(odd)
    assert tiny(fit="pad").features(odd).grid == (3, 3) and tiny(fit="resize").features(odd).grid == (3, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 12, "num_heads": 2}, "heads of a width that 4 divides, not 6"),
        ({"img_size": 50}, "such as 64x64"),
        ({"rope_jitter": 0.5}, "at least 1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(VitrailError, match=message):
        tiny(**options)
