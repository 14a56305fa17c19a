"""Grad-CAM against captum's, and what gradient maps leave behind: nothing."""

import copy

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from tests.models.tiny import TINY
from vitrail.contracts import VitrailError
from vitrail.explanations import grad_cam, grad_rollout_maps, relevance_maps
from vitrail.models import build, config_of
from vitrail.nn.attention import attention_kernel

from .oracles import counted, shaken
from .planted import tiny_vit


def tiny(name: str, std: float | None = 0.4, **overrides: object) -> nn.Module:
    torch.manual_seed(2)
    model = build(config_of(name, {**TINY[name], **overrides}))
    model.reset_classifier(5)
    return model.eval() if std is None else shaken(model, std)


class Laid(nn.Module):
    """Tokens as a map of channels, which is what captum takes a layer's output to be; the others are put aside."""

    def __init__(self, prefix: int, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.prefix, self.grid = prefix, grid

    def forward(self, values):
        self.aside = values[:, : self.prefix]
        return values[:, self.prefix :].mT.unflatten(-1, self.grid)


class Joined(nn.Module):
    """The inverse."""

    def __init__(self, laid: Laid) -> None:
        super().__init__()
        self.laid = [laid]

    def forward(self, maps):
        return torch.cat([self.laid[0].aside, maps.flatten(2).mT], dim=1)


def ours(model, images, depth):
    """The maps of all five classes."""
    return [grad_cam(model, images, torch.full((len(images),), number), depth) for number in range(5)]


def captums(model, layer, images):
    """The same by captum."""
    oracle = LayerGradCam(model, layer)
    return [oracle.attribute(images, number, relu_attributions=True).squeeze(1).detach() for number in range(5)]


def close(actual, expected):
    """Class by class; some are all zero, where nothing speaks for them."""
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 1e-5 * other.max() + 1e-9
    assert sum(float(other.max()) > 0 for other in expected) >= 1


@pytest.mark.parametrize("depth", [-1, 0, 2])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_tiny"])
def test_convolutional_networks(name, depth):
    model = tiny(name, None if name.startswith("resnet") else 0.2)
    images = torch.randn(2, 3, 64, 96)
    layers = {
        "resnet18": lambda: [model.stages.layer1, None, model.stages.layer3, model.stages.layer4],
        "resnet50": lambda: [model.stages.layer1, None, model.stages.layer3, model.stages.layer4],
        "convnext_tiny": lambda: [model.stages.features[i] for i in (1, 3, 5, 7)],
    }[name]()
    close(ours(model, images, depth), captums(model, layers[depth], images))


@pytest.mark.parametrize("depth", [-1, 0])
@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("vit_tiny_patch16_224", 1),
        ("deit_tiny_distilled_patch16_224", 2),
        ("vit_small_patch14_reg4_dinov2", 5),
        ("beit_base_patch16_224", 1),
        ("vit_small_patch16_dinov3", 5),
        ("vit_so400m_patch14_siglip_384", 0),
    ],
)
def test_transformers_at_the_input_of_an_attention(name, prefix, depth):
    model = tiny(name)
    step = model.patch_size[0]
    images = torch.randn(2, 3, 2 * step, 4 * step)
    actual = ours(model, images, depth)
    laid = Laid(prefix, (2, 4))
    model.blocks[depth].norm1 = nn.Sequential(model.blocks[depth].norm1, laid, Joined(laid))
    close(actual, captums(model, laid, images))


@pytest.mark.parametrize(("depth", "stage", "grid"), [(-1, 3, (2, 4)), (3, 1, (7, 14))])
def test_swin_on_the_grid_of_its_stage(depth, stage, grid):
    model, images = tiny("swin_tiny_patch4_window7_224"), torch.randn(2, 3, 56, 112)
    actual = ours(model, images, depth)
    laid = Laid(0, grid)
    block = model.layers[stage].blocks[-1]
    block.norm1 = nn.Sequential(block.norm1, laid, Joined(laid))
    close(actual, captums(model, laid, images))


def test_sam_and_video():
    sam = tiny("samvit_base_patch16")
    assert grad_cam(sam, torch.randn(1, 3, 64, 96)).shape == (1, 4, 6)
    video = tiny("videomae_base_patch16_224")
    (clip,) = video.example_inputs(2)
    assert grad_cam(video, clip).shape == (2, 2, 4, 4)


def test_what_cannot_be_shown_is_refused():
    images = torch.randn(1, 3, 64, 64)
    with pytest.raises(VitrailError, match="no classifier"):
        grad_cam(tiny_vit(num_classes=0), images)
    with pytest.raises(VitrailError, match="no layer 3"):
        grad_cam(tiny_vit(), images, depth=3)
    with pytest.raises(VitrailError, match="no stage -5"):
        grad_cam(tiny("resnet18"), images, depth=-5)


# ---------------------------------------------------------------------- the model afterwards

METHODS = pytest.mark.parametrize("method", [grad_cam, relevance_maps, grad_rollout_maps])


def state_of(model):
    return (
        [part.training for part in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()],
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()],
    )


def same(one, other):
    assert one[:2] == other[:2] and one[3] == other[3]
    for before, after in zip(one[2], other[2], strict=True):
        assert (before is None and after is None) or torch.equal(before, after)


@METHODS
def test_the_model_is_left_as_it_was(method):
    model = tiny_vit(dropout=0.5, drop_path=0.5)
    images, classes = torch.randn(2, 3, 16, 24), torch.tensor([0, 3])
    expected = method(model, images, classes)
    model.train()
    model.blocks[1].eval()
    model.blocks[0].requires_grad_(False)
    model(images).sum().backward()
    assert any(parameter.grad is not None for parameter in model.parameters())
    before = state_of(model)
    torch.testing.assert_close(method(model, images, classes), expected)
    same(state_of(model), before)
    with pytest.raises(VitrailError, match="no class"):
        method(model, images, torch.tensor([0, 4]))
    same(state_of(model), before)


@METHODS
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_frozen_parameters_and_no_gradients_around(method, mode):
    model = tiny_vit()
    images, classes = torch.randn(2, 3, 16, 24), torch.tensor([0, 3])
    expected = method(model, images, classes)
    frozen = copy.deepcopy(model).requires_grad_(False)
    with mode():
        actual = method(frozen, images.clone(), classes.clone())
        assert not actual.requires_grad
    assert torch.equal(actual, expected)
    assert all(parameter.grad is None for parameter in frozen.parameters())


def test_frozen_batch_norms_and_convolutions():
    model = tiny("resnet50", None, norm="frozen").requires_grad_(False)
    assert grad_cam(model, torch.randn(1, 3, 64, 96)).shape == (1, 2, 3)


def test_grad_cam_builds_no_weights_with_the_fused_kernel():
    model, images = tiny_vit(), torch.randn(2, 3, 16, 24)
    with counted() as counts, attention_kernel("fused"):
        grad_cam(model, images)
    assert counts.fused == 3 and counts.built_in_forward == 0
