"""Convolutional models as backbones: sizes, training, saving, stages, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.explanations import record
from vitrail.models import ConvNeXt, ResNet, build, config_of
from vitrail.models.conv import ConvNet, ResNetStages
from vitrail.weights import Artefact, convert, create_model

from .peers import pictures
from .tiny_conv import TINY

COUNTS = {
    # torchvision's figures.
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
}
every_model = pytest.mark.parametrize("name", TINY)


def tiny(name: str, **options: object) -> ConvNet:
    torch.manual_seed(0)
    model = build(config_of(name, {**TINY[name], "num_classes": 5, **options}))
    assert isinstance(model, ResNet | ConvNeXt)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim != 4:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_exact_parameter_count(name: str, count: int) -> None:
    with torch.device("meta"):
        model = build(config_of(name))
    assert sum(p.numel() for p in model.parameters()) == count


@every_model
def test_training_reaches_every_parameter_and_roles_name_them(name: str) -> None:
    model = tiny(name)
    model(pictures(64, 96)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    roles = model.roles()
    assert roles.keys() == dict(model.named_parameters()).keys()
    blocks = sum(model.config.depths)
    assert {role.depth for role in roles.values()} == set(range(blocks + 2))
    assert roles["head.weight"].depth == blocks + 1 and roles["head.weight"].decay
    vectors = {n for n, p in model.named_parameters() if p.ndim == 1 or n.endswith("layer_scale")}
    assert {n for n, role in roles.items() if not role.decay} == vectors


def test_roles_count_blocks_over_the_stages() -> None:
    resnet, convnext = tiny("resnet18", depths=(2, 1, 1, 3)).roles(), tiny("convnext_tiny").roles()
    assert resnet["stages.layer1.1.conv2.weight"].depth == 2 and resnet["stages.layer4.2.bn1.weight"].depth == 7
    assert resnet["stages.layer4.0.downsample.0.weight"].depth == 5 and resnet["stages.bn1.bias"].depth == 0
    assert convnext["stages.features.0.0.weight"].depth == 0
    assert convnext["stages.features.4.1.weight"].depth == 3  # Downsampling goes with the block behind it.
    assert convnext["stages.features.5.0.block.0.weight"].depth == 3
    assert convnext["stages.features.5.1.block.0.weight"].depth == 4


@every_model
def test_stages_are_taps_and_the_last_is_the_features(name: str) -> None:
    model = tiny(name).eval()
    images = pictures(64, 96)
    with torch.no_grad():
        maps, features = model.feature_maps(images), model.features(images)
        last, first = model.intermediates(images, [-1, 0])
        assert model.pool(features).shape == (2, model.num_features)
        torch.testing.assert_close(model.pool(features), model.fc_norm(maps[-1].mean(dim=(2, 3))))
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert torch.equal(last.values, features.values) and torch.equal(first.feature_map(), maps[0])
    assert features.prefix == 0 and features.grid == (2, 3)
    with pytest.raises(IndexError, match="no stage 4 in a model of 4"):
        model.intermediates(images, [4])


@every_model
def test_drop_path_and_dropout_act_in_training_only(name: str) -> None:
    model, images = tiny(name, drop_path=0.9, dropout=0.3), pictures(64, 64, batch=4)
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(images), model(images))
        statistics = {n: b.clone() for n, b in model.named_buffers()}
        model.eval()
        plain = tiny(name).eval()
        plain.load_state_dict(model.state_dict())
        assert torch.equal(model(images), plain(images))
        assert all(torch.equal(b, statistics[n]) for n, b in model.named_buffers())


def test_a_dropped_branch_leaves_the_shortcut() -> None:
    """With nearly all branches of the last block dropped, the block passes its shortcut on (Huang et al. 2016)."""
    stages = ResNetStages("basic", (1, 1, 1, 2), drop_path=0.999).train()
    block = stages.layer4[1]
    x = torch.rand(4, 512, 3, 3)
    with torch.no_grad():
        torch.manual_seed(0)
        torch.testing.assert_close(block(x), x)
        block.eval()
        assert not torch.allclose(block(x), x)


@pytest.mark.parametrize("name", [*TINY, "frozen"])
def test_an_artefact_is_the_same_model(name: str, tmp_path: Path) -> None:
    model = tiny("resnet18", norm="frozen") if name == "frozen" else tiny(name)
    model.train()(pictures(64, 64))  # So that statistics are not their initial ones.
    model.eval()
    Artefact(model, (), Preprocess(size=model.img_size)).save_pretrained(tmp_path)
    again = Artefact.from_pretrained(tmp_path).model
    assert again.config == model.config
    assert all(torch.equal(tensor, again.state_dict()[n]) for n, tensor in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(again(pictures(75, 49)), model(pictures(75, 49)))


@every_model
def test_other_bands_classes_and_sizes_than_the_weights(name: str, tmp_path: Path) -> None:
    model = tiny(name).eval()
    Artefact(model, (), Preprocess(size=model.img_size)).save_pretrained(tmp_path)
    other = create_model(str(tmp_path), pretrained=True, in_channels=1, num_classes=3, img_size=96, drop_path=0.2)
    images = pictures(64, 64)[:, :1]
    assert other.img_size == (96, 96) and other(images).shape == (2, 3)
    with torch.no_grad():
        grey = model.features(images.expand(-1, 3, -1, -1)).values
        torch.testing.assert_close(other.features(images).values, grey, atol=1e-4, rtol=1e-4)


def test_heads_are_replaced_set_and_taken_away() -> None:
    model = tiny("resnet18").eval()
    model.reset_classifier(3)
    assert model(pictures(64, 64)).shape == (2, 3) and model.config.num_classes == 3
    model.set_classifier(torch.ones(3, 512), torch.zeros(3))
    assert float(model.head.weight.detach().min()) == 1.0
    with pytest.raises(VitrailError, match="does not fit"):
        model.set_classifier(torch.ones(3, 64), torch.zeros(3))
    model.reset_classifier(0)
    assert model(pictures(64, 64)).shape == (2, 512) and isinstance(model.head, nn.Identity)


def test_stages_can_be_built_for_a_detector() -> None:
    stages = ResNetStages("bottleneck", (1, 1, 1, 1), norm=FrozenBatchNorm2d)
    assert stages.widths == (256, 512, 1024, 2048)
    assert [tuple(m.shape[1:]) for m in stages(pictures(33, 65))][-1] == (2048, 2, 3)
    assert "layer4.0.bn3.running_var" in stages.state_dict() and "layer4.0.bn3.weight" not in dict(
        stages.named_parameters()
    )


def test_what_cannot_be_is_refused_with_a_reason() -> None:
    with pytest.raises(VitrailError, match="3 channels but the model takes 5"):
        tiny("resnet18", in_channels=5)(pictures(64, 64))
    with pytest.raises(VitrailError, match="31x64 is too small: both sides need 32"):
        tiny("convnext_tiny")(pictures(31, 64))
    with pytest.raises(VitrailError, match="no attention layers"), record(tiny("resnet18")):
        pass
    with pytest.raises(VitrailError, match="four stages"):
        tiny("resnet18", depths=(1, 1))
    assert tiny("resnet18").eval()(pictures(17, 5)).shape == (2, 5)


def test_a_stem_for_small_pictures_keeps_their_sides_and_is_recognised_in_a_file(tmp_path: Path) -> None:
    model = tiny("resnet18", stem="small", in_channels=1, img_size=28).eval()
    assert isinstance(model, ResNet)
    images = pictures(28, 28)[:, :1]
    assert [tuple(found.shape[-2:]) for found in model.feature_maps(images)] == [(28, 28), (14, 14), (7, 7), (4, 4)]
    theirs = {name.removeprefix("stages.").replace("head.", "fc."): t for name, t in model.state_dict().items()}
    torch.save(theirs, tmp_path / "resnet.pth")
    again = create_model(
        "resnet18", pretrained=tmp_path / "resnet.pth", depths=[1, 1, 1, 1], img_size=28, in_channels=1
    )
    assert again.config == model.config
    torch.testing.assert_close(again(images), model(images))
    Artefact(model, (), Preprocess(size=(28, 28), mean=(0.5,), std=(0.5,))).save_pretrained(tmp_path / "artefact")
    with pytest.raises(VitrailError, match="timm has no ResNet whose stem"):
        convert(tmp_path / "artefact", tmp_path / "timm", to="timm")
