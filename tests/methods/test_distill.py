"""Distillation held to the papers' equations, written out in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.data import Preprocess
from vitrail.methods import Distill, DistillFeatures, DistillFeaturesOptions, DistillOptions, Teacher
from vitrail.methods.distill_features import summary_of
from vitrail.models import ResNet, ResNetConfig, VisionTransformer, ViTConfig
from vitrail.models.tune import tune_lora
from vitrail.nn.lora import LoRALinear

START = Progress(0, 10, 0, 1)
STUDENT = ViTConfig(img_size=16, patch_size=4, num_classes=3, embed_dim=16, depth=2, num_heads=2, distilled=True)
SEEN = Preprocess(size=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
OWN = Preprocess(size=(32, 32), mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3))


def batch(labels: Tensor | None, count: int = 6) -> Batch:
    images = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Batch(images, labels, torch.arange(count), tuple("abcdef"[:count]))


def resnet() -> ResNet:
    torch.manual_seed(5)
    model = ResNet(ResNetConfig(depths=(1, 1, 1, 1), block="basic", num_classes=3, stem="small", img_size=32))
    model.train()
    model(torch.randn(8, 3, 32, 32))  # So that the running statistics are not those of a fresh model.
    with torch.no_grad():
        model.head.weight.mul_(8)
    return model


def method(options: DistillOptions, config: ViTConfig = STUDENT) -> Distill:
    torch.manual_seed(0)
    student = VisionTransformer(config)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    teacher = Teacher(resnet(), OWN, SEEN)
    # An answer that differs from picture to picture.
    teacher.model.head.bias.sub_(teacher.logits(batch(None).images).mean(dim=0))
    return Distill(student, teacher, options)


def rows(logits: Tensor) -> list[list[float]]:
    return logits.detach().double().tolist()


def log_softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    scaled = [value / temperature for value in row]
    total = math.log(sum(math.exp(value) for value in scaled))
    return [value - total for value in scaled]


def cross_entropy(logits: list[list[float]], targets: list[list[float]]) -> float:
    pairs = zip(logits, targets, strict=True)
    each = [-sum(t * v for t, v in zip(target, log_softmax(row), strict=True)) for row, target in pairs]
    return sum(each) / len(each)


SOFT_LABELS = torch.tensor([[1.0, 0, 0], [0, 0.3, 0.7], [0, 0, 1], [0.5, 0.25, 0.25], [0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize("weight", [None, 0.3])
def test_hard_distillation_is_equation_3(weight: float | None) -> None:
    trained = method(DistillOptions("hard", weight))
    by_class, by_distillation = map(rows, trained.model.classify_both(trained.model.features(batch(None).images)))
    told = rows(trained.teacher.logits(batch(None).images))
    chosen = [[float(value == max(row)) for value in row] for row in told]
    assert len({tuple(row) for row in chosen}) > 1, "a teacher that always says the same teaches nothing"
    share = 0.5 if weight is None else weight
    expected = (1 - share) * cross_entropy(by_class, SOFT_LABELS.tolist())
    expected += share * cross_entropy(by_distillation, chosen)
    found = trained(batch(SOFT_LABELS), START)
    assert found["loss"].item() == pytest.approx(expected, abs=1e-6)
    agreement = [row.index(max(row)) == pick.index(1.0) for row, pick in zip(by_distillation, chosen, strict=True)]
    assert float(found["teacher_agreement"]) == pytest.approx(sum(agreement) / 6)


@pytest.mark.parametrize("weight", [None, 0.7])
def test_soft_distillation_is_equation_2(weight: float | None) -> None:
    trained = method(DistillOptions("soft", weight, temperature=2.5))
    by_class, by_distillation = map(rows, trained.model.classify_both(trained.model.features(batch(None).images)))
    told = rows(trained.teacher.logits(batch(None).images))
    divergence = 0.0
    for ours, theirs in zip(by_distillation, told, strict=True):
        p, q = log_softmax(theirs, 2.5), log_softmax(ours, 2.5)
        divergence += sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)) / 6
    share = 0.1 if weight is None else weight
    expected = (1 - share) * cross_entropy(by_class, SOFT_LABELS.tolist()) + share * 2.5**2 * divergence
    assert trained(batch(SOFT_LABELS), START)["loss"].item() == pytest.approx(expected, abs=1e-6)


def test_each_head_learns_from_its_own_teacher() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    for weight, idle in ((0.0, "head_dist"), (1.0, "head")):
        trained = method(DistillOptions("hard", weight))
        trained(batch(labels), START)["loss"].backward()
        grads = {name: getattr(trained.model, name).weight.grad for name in ("head", "head_dist")}
        assert not grads.pop(idle).any() and all(grad.any() for grad in grads.values())


def test_a_student_without_distillation_token_learns_both_with_its_class_head() -> None:
    plain = ViTConfig(img_size=16, patch_size=4, num_classes=3, embed_dim=16, depth=2, num_heads=2)
    trained = method(DistillOptions("hard"), plain)
    images = batch(None).images
    logits, told = rows(trained.model(images)), trained.teacher.logits(images).argmax(1)
    chosen = torch.nn.functional.one_hot(told, 3).double().tolist()
    expected = (cross_entropy(logits, SOFT_LABELS.tolist()) + cross_entropy(logits, chosen)) / 2
    assert trained(batch(SOFT_LABELS), START)["loss"].item() == pytest.approx(expected, abs=1e-6)


def test_the_teacher_sees_the_same_pixels_in_its_own_normalisation_and_size() -> None:
    # Far from black and white, at which eight bits cut off what the bicubic kernel overshoots.
    pixels = torch.randint(100, 156, (3, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    same_size = Preprocess(size=(32, 32), crop=1.0, mean=SEEN.mean, std=SEEN.std)
    teacher = Teacher(resnet(), OWN, same_size)
    torch.testing.assert_close(teacher.prepare(same_size(pixels)[None]), OWN.normalize(pixels)[None])
    larger = Preprocess(size=(64, 64), crop=1.0, mean=SEEN.mean, std=SEEN.std)
    bigger = Teacher(resnet(), larger, same_size).prepare(same_size(pixels)[None])
    assert (bigger - larger(pixels)[None]).abs().max() < 0.02 / min(SEEN.std)  # Eight bits against floats.


@pytest.mark.parametrize(("own", "seen"), [((0.4,), (0.1, 0.2, 0.3)), ((0.1, 0.2, 0.3), (0.4,))])
def test_grey_and_colour_meet(own: tuple[float, ...], seen: tuple[float, ...]) -> None:
    pixels = torch.randint(256, (len(seen), 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    theirs, ours = (Preprocess(size=(32, 32), crop=1.0, mean=mean, std=(0.2,) * len(mean)) for mean in (own, seen))
    prepared = Teacher(resnet(), theirs, ours).prepare(ours(pixels)[None])
    assert prepared.shape[1] == len(own)
    assert (prepared - theirs(pixels)[None]).abs().max() < 0.02  # Luma is rounded to eight bits.


def test_bands_that_do_not_fit_are_refused() -> None:
    five = Preprocess(size=(32, 32), mean=(0.5,) * 5, std=(0.5,) * 5)
    with pytest.raises(VitrailError, match="takes 5 bands, the student's pictures have 3"):
        Teacher(resnet(), five, SEEN)


def test_the_teacher_is_no_part_of_the_method_and_never_changes() -> None:
    trained = method(DistillOptions("soft"))
    before = {name: value.clone() for name, value in trained.teacher.model.state_dict().items()}
    assert {name.split(".")[0] for name in trained.state_dict()} == {"model"}
    assert set(trained.roles()) == {name for name, _ in trained.named_parameters()}
    assert all(name.startswith("model.") for name, _ in trained.named_modules() if name not in ("", "model"))
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.1)
    trained.train()
    for _ in range(2):
        trained(batch(SOFT_LABELS), START)["loss"].backward()
        optimiser.step()
    assert not trained.teacher.model.training
    after = trained.teacher.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert trained.export() is trained.model


def test_logits_come_in_the_students_order() -> None:
    images, order = batch(None).images, [2, 0, 1]
    plain, turned = Teacher(resnet(), OWN, SEEN), Teacher(resnet(), OWN, SEEN, order)
    assert torch.equal(turned.logits(images), plain.logits(images)[:, order])


def test_low_rank_updates_are_folded_in_on_export() -> None:
    trained = method(DistillOptions("hard"))
    tune_lora(2, 4.0)(trained.model)
    exported = trained.export()
    assert exported is not trained.model
    assert not any(isinstance(layer, LoRALinear) for layer in exported.modules())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kind": "warm"}, "hard or soft, not 'warm'"),
        ({"weight": 1.5}, r"\[0, 1\], not 1.5"),
        ({"temperature": 0.0}, "above 0, not 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(options: dict, reason: str) -> None:
    with pytest.raises(VitrailError, match=reason):
        DistillOptions(**options)


def test_pictures_without_labels_and_models_that_do_not_match_are_refused() -> None:
    with pytest.raises(VitrailError, match="without labels"):
        method(DistillOptions())(batch(None), START)
    with pytest.raises(VitrailError, match="tells 3 classes apart, the student 4"):
        Distill(VisionTransformer(STUDENT, num_classes=4), Teacher(resnet(), OWN, SEEN), DistillOptions())


# ---------------------------------------------------------------------- features


def feature_method(student: VisionTransformer | ResNet, **options: float) -> DistillFeatures:
    torch.manual_seed(3)
    config = ViTConfig(img_size=32, patch_size=8, num_classes=0, embed_dim=24, depth=2, num_heads=2, registers=2)
    teacher = VisionTransformer(config)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return DistillFeatures(student, Teacher(teacher, OWN, SEEN), DistillFeaturesOptions(**options))


def test_feature_distillation_is_cosine_and_smooth_l1() -> None:
    torch.manual_seed(0)
    trained = feature_method(VisionTransformer(STUDENT, num_classes=0), summary_weight=0.7, patch_weight=1.3)
    images = batch(None).images
    found = trained(batch(None), START)
    trained.double()
    theirs = trained.teacher.features(images)
    tokens = trained.model.features(images.double())
    assert tokens.grid == theirs.grid == (4, 4)
    summary = trained.summary_adapter(tokens.values[:, 0])
    patches = trained.patch_adapter(tokens.values[:, 2:])
    wanted, wanted_patches = theirs.values[:, 0].double(), theirs.values[:, 3:].double()

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return ((a * b).sum(-1) / (a.square().sum(-1).sqrt() * b.square().sum(-1).sqrt())).mean()

    gap = (patches - wanted_patches).abs()
    smooth = torch.where(gap < 1, 0.5 * gap.square(), gap - 0.5).mean()
    expected = 0.7 * (1 - cosine(summary, wanted)) + 1.3 * (0.9 * (1 - cosine(patches, wanted_patches)) + 0.1 * smooth)
    assert found["loss"].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("registers", [0, 2])
def test_the_summary_without_a_class_token_is_the_mean_of_the_patches(registers: int) -> None:
    config = replace(STUDENT, distilled=False, class_token=False, registers=registers, pool="mean", num_classes=0)
    tokens = VisionTransformer(config).features(batch(None).images)
    torch.testing.assert_close(summary_of(tokens), tokens.values[:, registers:].mean(dim=1))


def test_grids_that_differ_meet_on_the_students() -> None:
    finer = VisionTransformer(STUDENT, patch_size=2, num_classes=0)
    assert torch.isfinite(feature_method(finer)(batch(None), START)["loss"])
    coarse = ResNet(ResNetConfig(depths=(1, 1, 1, 1), block="basic", num_classes=0))
    assert torch.isfinite(feature_method(coarse)(batch(None), START)["loss"])


@pytest.mark.parametrize("patch_drop", [0.0, 0.5])
def test_feature_distillation_learns_in_a_few_steps(patch_drop: float) -> None:
    torch.manual_seed(0)
    student = VisionTransformer(ViTConfig(**{**vars(STUDENT), "num_classes": 0, "patch_drop": patch_drop}))
    trained = feature_method(student).train()
    optimiser = torch.optim.AdamW(trained.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        terms = trained(batch(None), START)
        terms["loss"].backward()
        optimiser.step()
        losses.append(terms["loss"].item())
    assert losses[-1] < 0.6 * losses[0]
    assert trained.export() is student
    assert set(trained.roles()) == {name for name, _ in trained.named_parameters()}
    assert not any("teacher" in name for name in trained.state_dict())
