"""torchvision, timm and Transformers as the oracles of ResNet and ConvNeXt; ConvNeXt's authors' file rebuilt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import convnext, resnet
from torchvision.models.feature_extraction import create_feature_extractor

from vitrail.models import ConvNeXt, ResNet
from vitrail.models.conv import ConvNet
from vitrail.weights import CheckpointError, convert, create_model, load_checkpoint
from vitrail.weights.preprocessing import from_transformers

from .peers import assert_same, perturb, pictures, save

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

WIDTHS, DEPTHS = (8, 16, 24, 32), (1, 1, 2, 1)
SIZES = [(64, 64), (75, 49)]


def resnet_peer(block: str) -> nn.Module:
    blocks = {"basic": resnet.BasicBlock, "bottleneck": resnet.Bottleneck}
    return settle(resnet.ResNet(blocks[block], [1, 2, 1, 1], num_classes=7))


def convnext_peer() -> nn.Module:
    following = [*WIDTHS[1:], None]
    settings = [convnext.CNBlockConfig(w, f, d) for w, f, d in zip(WIDTHS, following, DEPTHS, strict=True)]
    return settle(convnext.ConvNeXt(settings, num_classes=7))


def timm_peer(name: str) -> nn.Module:
    if name.startswith("resnet"):
        return settle(timm.create_model(name, pretrained=False, layers=[1, 2, 1, 1], num_classes=7))
    return settle(timm.create_model(name, pretrained=False, depths=DEPTHS, dims=WIDTHS, num_classes=7))


def settle(model: nn.Module) -> nn.Module:
    """Perturbed parameters and statistics."""
    perturb(model)
    generator = torch.Generator().manual_seed(1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
        else:
            buffer.fill_(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("layer_scale"):
                parameter.copy_(0.3 + 0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def load(path: Path) -> ConvNet:
    model = load_checkpoint(path).model
    assert isinstance(model, ResNet | ConvNeXt)
    return model


PEERS = {
    "resnet_basic": lambda: resnet_peer("basic"),
    "resnet_bottleneck": lambda: resnet_peer("bottleneck"),
    "convnext": convnext_peer,
}
STAGES = {"resnet": ["layer1", "layer2", "layer3", "layer4"], "convnext": [f"features.{i}" for i in (1, 3, 5, 7)]}
PARAMETERS = {
    "resnet": [("stages.conv1.weight", "conv1.weight"), ("stages.layer3.0.bn1.bias", "layer3.0.bn1.bias")],
    "convnext": [
        ("stages.features.0.0.weight", "features.0.0.weight"),
        ("stages.features.5.1.layer_scale", "features.5.1.layer_scale"),
        ("fc_norm.bias", "classifier.0.bias"),
    ],
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PEERS)
def test_logits_gradients_and_stages_equal_torchvision(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs = PEERS[name]()
    torch.save(theirs.state_dict(), tmp_path / "torchvision.pth")
    ours = load(tmp_path / "torchvision.pth")
    family = name.split("_")[0]
    mine, others = dict(ours.named_parameters()), dict(theirs.named_parameters())
    pairs = PARAMETERS[family]
    images = pictures(*size)
    assert_same(ours, theirs, images, {a: mine[a] for a, _ in pairs}, {a: others[b] for a, b in pairs})
    with torch.no_grad():
        expected = list(create_feature_extractor(theirs, STAGES[family])(images).values())
        found = ours.feature_maps(images)
    assert len(found) == 4
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_tiny"])
def test_timms_model_is_read_and_written_bit_equal(name: str, tmp_path: Path) -> None:
    theirs, images = timm_peer(name), pictures(75, 49)
    ours = load(save(theirs, tmp_path / "timm.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=0)
        expected = theirs.forward_intermediates(images, intermediates_only=True)[-4:]
        for one, other in zip(ours.feature_maps(images), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    convert(tmp_path / "timm.safetensors", tmp_path / "vitrail", to="vitrail")
    convert(tmp_path / "vitrail", tmp_path / "again", to="timm")
    written = load_file(tmp_path / "again" / "model.safetensors")
    assert written.keys() == theirs.state_dict().keys()
    assert all(torch.equal(written[n], tensor) for n, tensor in theirs.state_dict().items())
    opened = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(opened(images), theirs(images))


def test_the_authors_convnext_is_the_same_model(tmp_path: Path) -> None:
    theirs = timm_peer("convnext_tiny")
    rows = (
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^(stages\.\d)\.blocks\.", r"\1."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    )
    renamed: dict[str, Tensor] = {}
    for name, tensor in theirs.state_dict().items():
        for pattern, replacement in rows:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    assert {"stages.2.1.pwconv1.weight", "downsample_layers.3.1.bias", "norm.weight", "head.bias"} <= renamed.keys()
    torch.save({"model": renamed}, tmp_path / "convnext.pth")
    account = load_checkpoint(tmp_path / "convnext.pth").account
    assert account.translated.keys() == renamed.keys() and not account.dropped
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "convnext.pth")(pictures(64, 64)), theirs(pictures(64, 64)))


def test_old_files_without_counters_are_read_and_it_is_said(tmp_path: Path) -> None:
    tensors = {n: t for n, t in resnet_peer("basic").state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(tensors, tmp_path / "old.pth")
    account = load_checkpoint(tmp_path / "old.pth").account
    assert account.translated.keys() == tensors.keys()
    assert "stages.bn1.num_batches_tracked" in account.missing


def test_frozen_norms_give_the_same_answers_and_never_move(tmp_path: Path) -> None:
    torch.save(resnet_peer("bottleneck").state_dict(), tmp_path / "x.pth")
    plain = load(tmp_path / "x.pth")
    frozen = create_model(str(tmp_path / "x.pth"), pretrained=True, norm="frozen", num_classes=7)
    images = pictures(64, 64)
    with torch.no_grad():
        torch.testing.assert_close(frozen.train()(images), plain(images), atol=1e-4, rtol=1e-4)
    assert not any("bn" in name or "downsample.1" in name for name, _ in frozen.named_parameters())
    convert(tmp_path / "x.pth", tmp_path / "timm.safetensors", to="timm")


@pytest.mark.parametrize(
    ("name", "missing"), [("resnet_basic", "layer2.1.conv2.weight"), ("convnext", "features.4.1.bias")]
)
def test_a_missing_or_an_unknown_tensor_is_named(name: str, missing: str, tmp_path: Path) -> None:
    tensors = PEERS[name]().state_dict()
    torch.save({**tensors, "aux.weight": torch.ones(1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"more\.pth.*aux\.weight"):
        load(tmp_path / "more.pth")
    del tensors[missing]
    torch.save(tensors, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=rf"less\.pth.*{re.escape(missing)}"):
        load(tmp_path / "less.pth")


def test_a_resnext_is_not_taken_for_a_resnet(tmp_path: Path) -> None:
    grouped = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], groups=32, width_per_group=4, num_classes=3)
    torch.save(grouped.state_dict(), tmp_path / "resnext.pth")
    with pytest.raises(CheckpointError, match=r"resnext\.pth.*conv1\.weight has shape"):
        load(tmp_path / "resnext.pth")


def transformers_peer(name: str, bare: bool = False, **options: object) -> nn.Module:
    if name == "convnext":
        config = transformers.ConvNextConfig(
            **{"hidden_sizes": list(WIDTHS), "depths": list(DEPTHS), "num_labels": 7, **options}
        )
        return settle((transformers.ConvNextModel if bare else transformers.ConvNextForImageClassification)(config))
    widths = [64, 128, 256, 512] if name == "resnet_basic" else [256, 512, 1024, 2048]
    config = transformers.ResNetConfig(
        **{"hidden_sizes": widths, "depths": [1, 2, 1, 1], "layer_type": name[7:], "num_labels": 7, **options}
    )
    return settle((transformers.ResNetModel if bare else transformers.ResNetForImageClassification)(config))


def answer(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        out = model(images)
    return out.logits if "logits" in out else out.pooler_output.flatten(1)


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("name", ["resnet_basic", "resnet_bottleneck", "convnext"])
def test_transformers_model_is_read_and_written_bit_equal(name: str, bare: bool, tmp_path: Path) -> None:
    theirs, images = transformers_peer(name, bare), pictures(75, 49)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_checkpoint(tmp_path / "theirs")
    assert not loaded.account.dropped and not loaded.account.missing
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), answer(theirs, images), atol=1e-4, rtol=0)
    convert(tmp_path / "theirs", tmp_path / "vitrail", to="vitrail")
    convert(tmp_path / "vitrail", tmp_path / "again", to="transformers")
    written, stored = (load_file(tmp_path / place / "model.safetensors") for place in ("again", "theirs"))
    assert written.keys() == stored.keys()
    assert all(torch.equal(written[n], tensor) and written[n].dtype == tensor.dtype for n, tensor in stored.items())
    opened = type(theirs).from_pretrained(tmp_path / "again").eval()
    assert torch.equal(answer(opened, images), answer(theirs, images))


def test_a_convnext_without_layer_scale_or_with_another_epsilon_is_read(tmp_path: Path) -> None:
    theirs, images = transformers_peer("convnext", layer_scale_init_value=0.0, layer_norm_eps=1e-2), pictures(64, 64)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_checkpoint(tmp_path / "theirs")
    assert "stages.features.1.0.layer_scale" in loaded.account.missing
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), answer(theirs, images), atol=1e-4, rtol=0)
    account = convert(tmp_path / "theirs", tmp_path / "timm", to="timm")
    assert any("epsilon of fc_norm is 0.01" in note for note in account.notes)


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"downsample_in_bottleneck": True}, "strides in the first convolution of a block"),
        ({"downsample_in_first_stage": True}, "a first stage with a stride"),
        ({"hidden_act": "gelu"}, "the activation 'gelu'"),
    ],
)
def test_a_resnet_that_computes_something_else_is_refused(option: dict[str, object], reason: str, tmp_path: Path):
    transformers_peer("resnet_bottleneck", **option).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(tmp_path)


def test_a_stem_for_small_pictures_is_not_written_for_transformers(tmp_path: Path) -> None:
    peer = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=7)
    peer.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    torch.save(peer.state_dict(), tmp_path / "small.pth")
    with pytest.raises(CheckpointError, match="stem='small'"):
        convert(tmp_path / "small.pth", tmp_path / "out", to="transformers")


@pytest.mark.parametrize(("size", "resized"), [(224, 256), (384, None)])
def test_convnexts_processor_cuts_below_384_pixels_and_squashes_above(size: int, resized: int | None) -> None:
    values = {"feature_extractor_type": "ConvNextFeatureExtractor", "size": size, "crop_pct": 0.875, "resample": 3}
    ours = from_transformers(values)
    assert ours.size == (size, size) and ours.interpolation == "bicubic"
    assert (ours.resize, int(size / ours.crop)) == (("shortest", resized) if resized else ("squash", size))
    newer = {**values, "size": {"shortest_edge": size}, "image_processor_type": "ConvNextImageProcessor"}
    assert from_transformers(newer) == ours
