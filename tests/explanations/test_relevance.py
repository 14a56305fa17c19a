"""Relevance and gradient-weighted rollout against explicit attention in float64, differentiated by autograd."""

import copy

import pytest
import torch
from torch import Tensor, nn

import vitrail.nn.attention as attention_module
from tests.models.tiny import TINY
from vitrail.contracts import VitrailError
from vitrail.explanations import grad_rollout_maps, relevance_maps
from vitrail.explanations.given import attention_layers
from vitrail.models import build, config_of
from vitrail.nn.attention import attention_kernel

from .oracles import counted, shaken
from .planted import tiny_vit

MAPS = pytest.mark.parametrize("method", [relevance_maps, grad_rollout_maps])
FAMILIES = [
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "vit_parallel_small_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_giant_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_clip_224",
]


def explicit_attention_in(patch: pytest.MonkeyPatch) -> list[Tensor]:
    """Make every attention build its weights plainly; they are put into the list."""
    kept: list[Tensor] = []

    def explicit(query, key, value, mask=None, dropout=0.0):
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5
        weights = (scores if mask is None else scores + mask).exp()
        kept.append(weights / weights.sum(-1, keepdim=True))
        return kept[-1] @ value

    patch.setattr(attention_module, "attend", explicit)
    return kept


def product_of_layers(weights: list[Tensor], gradients: tuple[Tensor, ...], normalise: bool) -> Tensor:
    """``R`` as in the papers, whole: from the first layer to the last."""
    eye = torch.eye(weights[0].shape[-1], dtype=torch.float64)
    result = eye.expand(len(weights[0]), -1, -1)
    for attention, gradient in zip(weights, gradients, strict=True):
        step = (gradient * attention).clamp(min=0).mean(dim=1) + eye
        result = (step / step.sum(-1, keepdim=True) if normalise else step) @ result
    return result


def oracle(model: nn.Module, images: Tensor, classes: Tensor | None, method) -> Tensor:
    """The map by its definition, in float64."""
    twin = copy.deepcopy(model).double().eval().requires_grad_(True)
    with pytest.MonkeyPatch.context() as patch:
        weights = explicit_attention_in(patch)
        tokens = twin.features(images.double())
        logits = twin.classify(tokens)
        chosen = logits.argmax(-1) if classes is None else classes
        score = logits[torch.arange(len(logits)), chosen].sum()
        *gradients, last = torch.autograd.grad(score, [*weights, tokens.values])
    result = product_of_layers([w.detach() for w in weights], tuple(gradients), method is grad_rollout_maps)
    share = last.norm(dim=-1)
    rows = torch.einsum("bq,bqk->bk", share / share.sum(-1, keepdim=True), result)
    return rows[:, tokens.prefix :].detach().unflatten(-1, tokens.grid)


def tiny(name: str, **overrides: object) -> nn.Module:
    model = build(config_of(name, {**TINY[name], **overrides}))
    model.reset_classifier(5)
    return shaken(model)


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual.double() - expected).abs().max() <= 1e-4 * expected.abs().max()
    # Otherwise a constant would pass.
    assert expected.flatten(1).std(dim=1).min() > 1e-2 * expected.max()


@MAPS
@pytest.mark.parametrize("name", FAMILIES)
def test_class_tokens_row_in_every_family(name, method):
    model = tiny(name)
    step = model.patch_size[0]
    images = torch.randn(2, 3, 2 * step, 4 * step)
    classes = torch.tensor([3, 0])
    expected = oracle(model, images, classes, method)
    close(method(model, images, classes), expected)


@pytest.mark.parametrize("registers", [0, 4])
def test_relevance_of_a_vit_written_out(registers):
    """No part of the package but the embedding: blocks, classifier and gradients from the raw weights."""
    model, images, classes = tiny_vit(registers=registers), torch.randn(2, 3, 16, 24), torch.tensor([2, 1])
    weights = {name: value.detach().double() for name, value in model.named_parameters()}
    x = model.embed(images).values.detach().double().requires_grad_()
    layers = []

    def norm(x, name):
        return nn.functional.layer_norm(x, (16,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    for i in range(3):
        query, key, value = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").chunk(3, dim=-1)
        split = [torch.stack(part.chunk(2, dim=-1), dim=1) for part in (query, key, value)]
        layers.append((split[0] @ split[1].mT / 8**0.5).softmax(-1))
        x = x + linear(torch.cat((layers[-1] @ split[2]).unbind(1), dim=-1), f"blocks.{i}.attn.proj")
        hidden = nn.functional.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + linear(hidden, f"blocks.{i}.mlp.fc2")
    logits = linear(norm(x, "norm")[:, 0], "head")
    torch.testing.assert_close(logits.float(), model(images), atol=1e-4, rtol=1e-4)
    gradients = torch.autograd.grad(logits[[0, 1], classes].sum(), layers)
    for method in (relevance_maps, grad_rollout_maps):
        whole = product_of_layers([layer.detach() for layer in layers], gradients, method is grad_rollout_maps)
        close(method(model, images, classes), whole[:, 0, 1 + registers :].unflatten(-1, (2, 3)))


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "beit_large_patch16_224", "videomae_base_patch16_224"])
def test_mean_of_the_patches_rows_where_they_are_pooled(name):
    """The identity's part is the same for every patch; what remains is the mean over the rows."""
    model = tiny(name)
    (images,) = model.example_inputs(2, (48, 80) if name.startswith("beit") else None)
    expected = oracle(model, images, None, relevance_maps)
    count = expected[0].numel()
    actual = relevance_maps(model, images)
    close(actual, expected - 1 / count)
    twin = oracle(model, images, None, grad_rollout_maps)
    rolled = grad_rollout_maps(model, images)
    # Rows of a product that sum to one: what is left out stays on the diagonal, at most 1/N at every patch.
    assert ((twin - rolled) > 0).all() and ((twin - rolled) <= 1 / count + 1e-7).all()
    assert (rolled >= 0).all() and rolled.std() > 0


@MAPS
def test_an_attention_pool_weighs_the_rows(method):
    model = tiny("vit_so400m_patch14_siglip_384")
    images = torch.randn(2, 3, 28, 56)
    expected = oracle(model, images, None, method)
    actual = method(model, images)
    assert actual.shape == expected.shape
    # The start is left out, so that a map is less than the whole product by no more than one in all.
    missing = expected - actual.double()
    assert (missing >= -1e-5).all()
    assert (missing.flatten(1).sum(-1) <= 1 + 1e-5).all()


@MAPS
def test_the_fused_kernel_builds_no_weights_in_the_forward_pass(method):
    model, images = tiny_vit(), torch.randn(2, 3, 16, 24)
    plain = method(model, images)
    with counted() as counts, attention_kernel("fused"):
        fused = method(model, images)
    assert counts.fused == 3 and counts.built_in_forward == 0
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-3)


@MAPS
def test_classes_have_their_own_maps_and_the_predicted_one_is_the_default(method):
    model, images = tiny_vit(), torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        predicted = model(images).argmax(-1)
    assert torch.equal(method(model, images), method(model, images, predicted))
    assert not torch.allclose(method(model, images), method(model, images, (predicted + 1) % 4))
    # Every picture has a map of its own, whoever stands beside it.
    torch.testing.assert_close(method(model, images[1:], predicted[1:])[0], method(model, images, predicted)[1])


def test_what_cannot_be_followed_is_refused():
    images = torch.randn(2, 3, 16, 24)
    with pytest.raises(VitrailError, match="no classifier"):
        relevance_maps(tiny_vit(num_classes=0), images)
    with pytest.raises(VitrailError, match="no class 4 in a model of 4"):
        relevance_maps(tiny_vit(), images, torch.tensor([0, 4]))
    with pytest.raises(VitrailError, match="2 pictures need as many classes"):
        relevance_maps(tiny_vit(), images, torch.tensor([0]))
    swin = tiny("swin_tiny_patch4_window7_224")
    with pytest.raises(VitrailError, match=r"WindowMixer.*Grad-CAM"):
        relevance_maps(swin, torch.randn(1, 3, 56, 56))
    with pytest.raises(VitrailError, match=r"no attention.*Grad-CAM"):
        relevance_maps(tiny("resnet18"), torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("kernel", ["plain", "fused"])
def test_half_precision_gives_nearly_the_same_map(kernel):
    model, images = tiny_vit(), torch.randn(1, 3, 16, 24)
    exact = relevance_maps(model, images, torch.tensor([1]))
    with attention_kernel(kernel), torch.autocast("cpu", torch.bfloat16):
        mixed = relevance_maps(model, images, torch.tensor([1]))
    with attention_kernel(kernel):
        cast = relevance_maps(copy.deepcopy(model).bfloat16(), images.bfloat16(), torch.tensor([1]))
    for other in (mixed, cast):
        assert other.dtype == torch.float32
        assert (other - exact).norm() < 0.2 * exact.norm()


def test_layers_are_matched_to_their_own_gradients():
    """A model whose layers are called in another order than they are registered."""
    model = tiny_vit()
    first, *_, last = model.blocks
    model.blocks[0], model.blocks[2] = last, first
    images = torch.randn(1, 3, 16, 24)
    close(relevance_maps(model, images), oracle(model, images, None, relevance_maps))
    assert len(attention_layers(model)) == 3
