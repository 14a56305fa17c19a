import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.methods import Classify
from vitrail.models import ResNet, ResNetConfig, VisionTransformer, ViTConfig
from vitrail.models.tune import Tune, tune_full, tune_head, tune_last, tune_lora
from vitrail.nn.lora import LoRALinear

START = Progress(0, 10, 0, 1)
TINY = ViTConfig(img_size=8, patch_size=4, num_classes=3, embed_dim=16, depth=3, num_heads=2)


def batch(labels: torch.Tensor | None) -> Batch:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(images, labels, torch.arange(4), tuple("abcd"))


@pytest.fixture
def method() -> Classify:
    torch.manual_seed(0)
    return Classify(VisionTransformer(TINY))


def test_the_loss_is_the_cross_entropy_of_hard_labels(method):
    labels = torch.tensor([0, 2, 1, 1])
    logits = method.model(batch(None).images)
    expected = -logits.log_softmax(1)[torch.arange(4), labels].mean()
    torch.testing.assert_close(method(batch(labels), START)["loss"], expected)


def test_soft_labels_have_the_same_loss_when_they_are_hard(method):
    labels = torch.tensor([0, 2, 1, 1])
    soft = F.one_hot(labels, 3).float()
    torch.testing.assert_close(method(batch(soft), START)["loss"], method(batch(labels), START)["loss"])


def test_pictures_without_labels_and_models_without_classes_are_refused(method):
    with pytest.raises(VitrailError, match="without labels"):
        method(batch(None), START)
    with pytest.raises(VitrailError, match="at least two classes"):
        Classify(VisionTransformer(TINY, num_classes=0))


def test_every_parameter_has_a_role_with_depths_from_input_to_head(method):
    roles = method.roles()
    assert set(roles) == {name for name, _ in method.named_parameters()}
    assert roles["model.patch_embed.proj.weight"].depth == 0
    assert roles["model.pos_embed"].depth == 0 and not roles["model.pos_embed"].decay
    assert roles["model.blocks.0.attn.qkv.weight"].depth == 1 and roles["model.blocks.0.attn.qkv.weight"].decay
    assert roles["model.blocks.2.norm1.weight"].depth == 3 and not roles["model.blocks.2.norm1.weight"].decay
    assert roles["model.head.weight"].depth == 4 and roles["model.head.weight"].decay
    assert not roles["model.cls_token"].decay and not roles["model.head.bias"].decay


def learning(model: VisionTransformer) -> set[str]:
    return {
        name.split(".")[0] + "." + name.split(".")[1]
        for name, p in model.named_parameters()
        if p.requires_grad and "." in name
    }


def test_what_learns_in_each_mode():
    everything = VisionTransformer(TINY)
    tune_full(everything)
    assert all(p.requires_grad for p in everything.parameters())
    last = VisionTransformer(TINY)
    tune_last(1)(last)
    assert learning(last) == {"blocks.2", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert not last.pos_embed.requires_grad
    head = VisionTransformer(TINY)
    tune_head(head)
    assert learning(head) == {"head.weight", "head.bias"}
    with pytest.raises(VitrailError, match="last 4 blocks of a model that has 3"):
        tune_last(4)(VisionTransformer(TINY))


def test_low_rank_updates_learn_and_the_exported_model_is_plain_and_answers_alike():
    torch.manual_seed(0)
    model = VisionTransformer(TINY)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tune_lora(rank=2, alpha=8.0)(model)
    method = Classify(model)
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
    labels = torch.tensor([0, 2, 1, 1])
    for _ in range(3):
        optimiser.zero_grad()
        method(batch(labels), START)["loss"].backward()
        optimiser.step()
    exported = method.export()
    assert not any(isinstance(layer, LoRALinear) for layer in exported.modules())
    assert set(exported.state_dict()) == set(before)
    torch.testing.assert_close(exported(batch(None).images), model(batch(None).images))
    assert not torch.equal(exported.state_dict()["blocks.0.attn.qkv.weight"], before["blocks.0.attn.qkv.weight"])
    assert torch.equal(exported.state_dict()["patch_embed.proj.weight"], before["patch_embed.proj.weight"])
    assert any(isinstance(layer, LoRALinear) for layer in model.modules())  # training may go on


@pytest.mark.parametrize("tune", [tune_head, tune_last(0)])
@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_what_is_frozen_of_a_resnet_keeps_its_statistics_too(tune: Tune, drop_path: float):
    torch.manual_seed(0)
    model = ResNet(
        ResNetConfig(img_size=32, num_classes=3, depths=(1, 1, 1, 1), block="basic", stem="small", drop_path=drop_path)
    )
    tune(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    method = Classify(model).train()
    images = torch.randn(4, 3, 32, 32) + 1.0
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        method(Batch(images, torch.tensor([0, 2, 1, 1]), torch.arange(4), tuple("abcd")), START)["loss"].backward()
        optimiser.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}
    # Noise that was asked for goes on, and only that.
    with torch.no_grad():
        pooled = {method.train(mode).model.pool(model.features(images)) for mode in (True, False)}
    assert torch.equal(*pooled) == (drop_path == 0.0)


def test_the_norms_of_blocks_that_learn_follow_the_batch():
    model = ResNet(ResNetConfig(img_size=32, num_classes=3, depths=(1, 1, 1, 1), block="basic", stem="small"))
    tune_last(1)(model)
    resting = {name for name, part in model.train().named_modules() if isinstance(part, nn.BatchNorm2d)}
    resting = {name for name in resting if not model.get_submodule(name).training}
    assert "stages.layer3.0.bn2" in resting and "stages.bn1" in resting
    assert not any(name.startswith("stages.layer4") for name in resting)
    tune_head(model)
    assert not any(part.training for part in model.stages.layer4.modules() if isinstance(part, nn.BatchNorm2d))
