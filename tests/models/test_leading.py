"""The first tokens alone: what the last block leaves out changes nothing that is read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.models.tiny import TINY
from vitrail.contracts import VitrailError
from vitrail.explanations import record
from vitrail.heads.pool import ClassMeanPool, ClassTokenPool
from vitrail.models import Backbone, Beit, Plain, build, config_of
from vitrail.nn.encoder import recompute_blocks
from vitrail.speed import merged, prepare

BUILT = {name: build(config_of(name, TINY[name])) for name in TINY}
PLAIN = [name for name, model in BUILT.items() if isinstance(model, Plain)]
WITH_CLASS_TOKEN = [n for n, model in BUILT.items() if isinstance(model, Plain) and model.config.class_token]
WITHOUT = [name for name, model in BUILT.items() if isinstance(model, Backbone) and name not in WITH_CLASS_TOKEN]


def tiny(name: str, **overrides: object) -> Plain:
    torch.manual_seed(0)
    model = build(config_of(name, {**TINY[name], **overrides})).eval().double()
    assert isinstance(model, Plain)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def pictures(model: Plain) -> Tensor:
    torch.manual_seed(1)
    return model.example_inputs(2)[0].double()


def test_the_families_are_among_them() -> None:
    assert len(WITH_CLASS_TOKEN) >= 6


@pytest.mark.parametrize("name", WITH_CLASS_TOKEN)
@pytest.mark.parametrize("count", [0, 4])
def test_they_are_those_of_all_features_with_merging_and_without(name: str, count: int) -> None:
    model = tiny(name)
    if isinstance(model, Beit) and model.rel_pos_bias is not None and count:
        pytest.skip("one table for all layers: never merged")
    model = merged(model, count)
    images = pictures(model)
    whole = model.features(images)
    for wanted in range(1, whole.prefix + 1):
        few = model.leading(images, wanted)
        assert few.values.shape[1] == few.prefix == wanted and few.patches.shape[1] == 0
        assert few.grid == whole.grid
        torch.testing.assert_close(few.values, whole.values[:, :wanted], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", PLAIN)
def test_answers_and_gradients_are_those_from_all_features(name: str) -> None:
    model = tiny(name)
    images = pictures(model)

    def gradients(answer: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad((answer * answer.detach().cos()).sum(), learned, allow_unused=True))

    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tokens = model.features(images)
    through_all = model.classify(tokens) if model.num_classes else model.pool(tokens)
    answer = model(images)
    torch.testing.assert_close(answer, through_all, rtol=1e-9, atol=1e-10)
    for one, other in zip(gradients(answer), gradients(through_all), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


class Rows(nn.Module):
    """Notes how many tokens an MLP is given."""

    def __init__(self, mlp: nn.Module, seen: list[int]) -> None:
        super().__init__()
        self.mlp, self.seen = mlp, seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.shape[1])
        return self.mlp(x)


@pytest.mark.parametrize(
    ("name", "overrides", "last"),
    [
        ("vit_small_patch14_reg4_dinov2", {}, 1),
        ("deit_tiny_distilled_patch16_224", {"num_classes": 3}, 2),
        ("deit_tiny_distilled_patch16_224", {"num_classes": 0}, 1),
        ("vit_tiny_patch16_224", {"pool": "mean"}, None),
        ("deit_tiny_distilled_patch16_224", {"num_classes": 3, "pool": "class_mean"}, None),
    ],
)
def test_the_last_block_works_out_what_is_read(name: str, overrides: dict[str, object], last: int | None) -> None:
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
    model = build(config_of(name, {**small, **overrides})).eval()
    assert isinstance(model, Plain)
    seen: list[int] = []
    for block in model.blocks:
        block.mlp = Rows(block.mlp, seen)
    model(torch.randn(2, 3, 32, 32))
    whole = model.embed(torch.randn(2, 3, 32, 32)).values.shape[1]
    assert seen == [whole, whole, last or whole]


def test_recorded_attention_is_that_of_all_queries() -> None:
    model = tiny("vit_tiny_patch16_224")
    images = pictures(model)
    maps = []
    for run in (model, model.features):
        with record(model, queries=(0, (0, 1))) as seen, torch.no_grad():
            run(images)
        maps.append(seen.maps(-1))
    torch.testing.assert_close(*maps)


def test_recomputed_blocks_give_the_same_gradients() -> None:
    model = tiny("vit_tiny_patch16_224").train()
    images = pictures(model)
    found = []
    for _ in range(2):
        model.zero_grad()
        model(images).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
        recompute_blocks(model)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_prepared_models_give_the_same(precision: str) -> None:
    model = tiny("vit_small_patch14_dinov2").float()
    images = pictures(model).float()
    ready = prepare(model, torch.device("cpu"), precision, 2)
    with ready.context():
        whole, few = ready.model.features(images).values[:, :1], ready.model.leading(images, 1).values
    assert float((whole - few).norm()) <= (1e-6 if precision == "fp32" else 1e-2) * float(whole.norm())


@pytest.mark.parametrize("name", WITHOUT)
def test_models_without_a_class_token_say_so(name: str) -> None:
    model = BUILT[name]
    assert isinstance(model, Backbone)
    with pytest.raises(VitrailError, match="no class token: pool the mean"):
        model.leading(*model.example_inputs(1), 1)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224", "vit_small_patch16_dinov3"])
def test_a_register_is_no_class_token(name: str) -> None:
    model = tiny(name, class_token=False, registers=4, pool="mean", pool_norm=False)
    images = pictures(model)
    tokens = model.features(images)
    assert tokens.prefix == tokens.registers == 4 and not tokens.class_token
    torch.testing.assert_close(model.pool(tokens), tokens.values[:, 4:].mean(dim=1))
    with pytest.raises(VitrailError, match="no class token: pool the mean"):
        model.leading(images, 1)
    for pool in (ClassTokenPool(), ClassMeanPool()):
        with pytest.raises(VitrailError, match="no class token: pool the mean"):
            pool(tokens)
