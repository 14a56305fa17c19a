"""DINO against its equations, its schedules, what learns when, and what its numbers show when it collapses."""

import math
from dataclasses import replace

import pytest
import torch

from tests.methods.views import SMALL, STILL, at, difference, double, plain_head, tiny_vit, view_batch
from vitrail.contracts import Batch, VitrailError
from vitrail.data.views import LOCAL_VIEWS, SECOND_VIEW
from vitrail.methods import DINO, DINOOptions
from vitrail.methods.momentum import batch_entropy, follow, mean_entropy, momentum_at, temperature_at

OPTIONS = DINOOptions(**SMALL, **STILL, local_crops=2)


def dino(options: DINOOptions = OPTIONS) -> DINO:
    """Student and teacher differ, and the centre is not where it begins."""
    method = DINO(tiny_vit(), options).train()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for part in (method.teacher, method.teacher_head):
            for parameter in part.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        method.center.copy_(torch.randn(24, generator=generator) * 0.1)
    return method


def equation(method: DINO, batch: Batch, teacher_temperature: float):
    """Loss and gradients as the paper's pseudocode has them: one network at a time, one pair at a time, float64."""
    student, head = double(method.student), double(method.student_head)
    teacher, teacher_head = double(method.teacher), double(method.teacher_head)
    crops = [batch.images, batch.extras[SECOND_VIEW], *batch.extras[LOCAL_VIEWS].unbind(1)]
    with torch.no_grad():
        said_t = [plain_head(teacher_head, teacher(view.double())) for view in crops[:2]]
    said_s = [plain_head(head, student(view.double())) for view in crops]
    terms = []
    for i, t in enumerate(said_t):
        target = ((t - method.center.double()) / teacher_temperature).softmax(-1)
        for v, s in enumerate(said_s):
            if v != i:
                terms.append(-(target * torch.log((s / 0.1).softmax(-1))).sum(-1).mean())
    loss = torch.stack(terms).mean()
    loss.backward()
    center = 0.9 * method.center.double() + 0.1 * torch.cat(said_t).mean(0)
    gradients = {f"student.{name}": p.grad for name, p in student.named_parameters()}
    gradients |= {f"student_head.{name}": p.grad for name, p in head.named_parameters()}
    return loss.detach(), gradients, center


@pytest.mark.parametrize("local", [2, 0])
def test_one_step_has_the_loss_gradient_and_centre_of_the_equations(local, record_property):
    method, batch = dino(), view_batch(local=local)
    progress = at(50)
    loss, gradients, center = equation(method, batch, 0.07)
    found = method(batch, progress)
    found["loss"].backward()
    torch.testing.assert_close(found["loss"].double(), loss, atol=1e-5, rtol=1e-5)
    worst = 0.0
    for name, parameter in method.named_parameters():
        if name in gradients and gradients[name] is not None:
            assert parameter.grad is not None, name
            worst = max(worst, difference(parameter.grad, gradients[name]))
        else:
            assert parameter.grad is None or not parameter.grad.any(), name
    assert worst <= 1e-4
    record_property("gradient_difference", worst)
    method.after_step(progress)
    torch.testing.assert_close(method.center.double(), center, atol=1e-6, rtol=1e-5)


def test_the_centre_of_two_batches_of_a_step_is_that_of_one():
    one, two, batch = dino(), dino(), view_batch(count=4)
    one(batch, at(50))
    for part in (slice(0, 1), slice(1, 4)):
        extras = {name: value[part] for name, value in batch.extras.items()}
        two(replace(batch, images=batch.images[part], extras=extras), at(50))
    for method in (one, two):
        method.after_step(at(50))
    torch.testing.assert_close(one.center, two.center)
    before = one.center.clone()
    one(batch, at(51))
    one.after_step(at(51))  # a step begins anew: the batch counts once
    torch.testing.assert_close(one.center.lerp(before, 0.0), one.center)
    assert not torch.equal(one.center, before)


def test_schedules():
    # Half a cosine from 0.996 to 1, and a line from 0.04 to 0.07 over a tenth of the run.
    for step in (0, 30, 50, 100):
        assert momentum_at(at(step), 0.996) == pytest.approx(1 - 0.004 * (math.cos(math.pi * step / 100) + 1) / 2)
    assert [momentum_at(at(step), 0.996) for step in (0, 100)] == [0.996, 1.0]
    temperatures = [temperature_at(at(step), 0.04, 0.07, 0.1) for step in (0, 5, 10, 90)]
    assert temperatures == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert temperature_at(at(0), 0.04, 0.07, 0.0) == 0.07


def test_the_teacher_follows_by_the_momentum_and_takes_no_gradient():
    method = dino()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method(view_batch(), at(50))["loss"].backward()
    method.after_step(at(50))
    momentum = momentum_at(at(50), 0.996)
    for name, value in method.state_dict().items():
        if name.startswith("teacher"):
            expected = momentum * before[name] + (1 - momentum) * before[name.replace("teacher", "student")]
            torch.testing.assert_close(value, expected)
            assert not torch.equal(value, before[name])
        elif name.startswith("student"):
            assert torch.equal(value, before[name])
    teacher = [p for name, p in method.named_parameters() if name.startswith("teacher")]
    assert teacher and all(p.grad is None and not p.requires_grad for p in teacher)
    assert method.export() is method.teacher


def test_buffers_of_the_teacher_are_the_student_s():
    student, teacher = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    student(torch.randn(8, 3))
    follow(teacher, student, 0.9)
    assert torch.equal(teacher.running_mean, student.running_mean) and int(teacher.num_batches_tracked) == 1


def test_the_teacher_never_drops_anything():
    method = DINO(tiny_vit(drop_path=0.9, dropout=0.5, patch_drop=0.5), OPTIONS)
    method.eval()
    method.train()
    assert method.student.blocks[1].training and not any(part.training for part in method.teacher.modules())
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(method.teacher(images), method.teacher(images))


def test_prototypes_stay_for_the_first_epoch_and_the_backbone_for_its_share():
    method = dino(replace(OPTIONS, freeze_last_layer=1, freeze_backbone=0.3))

    def learning(step):
        method.zero_grad(set_to_none=True)
        method(view_batch(), at(step))["loss"].backward()
        return {
            name.split(".")[0] + "." + name.split(".")[1] for name, p in method.named_parameters() if p.grad is not None
        }

    assert learning(5) == {"student_head.mlp"}
    assert learning(20) == {"student_head.mlp", "student_head.last_layer"}
    late = learning(30)
    assert "student.blocks" in late and "student.cls_token" in late and "student_head.last_layer" in late


def test_every_trainable_parameter_has_a_role_and_the_head_lies_behind_the_backbone():
    method = dino(replace(OPTIONS, head_gap=5))
    roles = method.roles()
    assert set(roles) == {name for name, p in method.named_parameters() if not name.startswith("teacher")}
    assert roles["student.blocks.1.attn.qkv.weight"].depth == 2
    assert roles["student_head.last_layer.weight"].depth == 3 + 5 and roles["student_head.last_layer.weight"].decay
    assert not roles["student_head.mlp.0.bias"].decay


def test_what_is_logged_are_entropies():
    certain, even = torch.eye(4)[None], torch.full((3, 4), 0.25)
    assert mean_entropy(certain) == 0 and mean_entropy(even) == pytest.approx(math.log(4))
    assert batch_entropy(certain) == pytest.approx(math.log(4)) and batch_entropy(certain[:, :1]) == 0
    method = dino(replace(OPTIONS, student_temperature=0.07, local_crops=0))
    # The same view twice and a teacher that is the student: nothing is between them.
    method.teacher.load_state_dict(method.student.state_dict())
    method.teacher_head.load_state_dict(method.student_head.state_dict())
    method.center.zero_()
    batch = view_batch(local=0)
    found = method(replace(batch, extras={**batch.extras, SECOND_VIEW: batch.images}), at(50))
    assert found["kl"] == pytest.approx(0.0, abs=1e-5)
    assert found["teacher_entropy"] == pytest.approx(found["loss"].item(), rel=1e-5)


def collapse(**changes: object) -> dict[str, float]:
    """What is logged at the end of a short training on noise."""
    options = replace(OPTIONS, momentum=0.5, freeze_last_layer=0, teacher_temperature_warmup=0.0, **changes)
    method = DINO(tiny_vit(), options).train()
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(80):
        whole = torch.randn(2, 16, 1, 8, 8, generator=generator)
        batch = Batch(whole[0], None, torch.arange(16), (), {SECOND_VIEW: whole[1]})
        found = method(batch, at(step, 1000))
        optimiser.zero_grad()
        found["loss"].backward()
        optimiser.step()
        method.after_step(at(step, 1000))
    return {name: float(value.detach()) for name, value in found.items()}


def test_collapse_is_seen_in_the_entropies():
    # Section 5.3: without centring one prototype wins, without sharpening all are alike.
    one = collapse(centre=False)
    assert one["batch_entropy"] < 0.1 and one["teacher_entropy"] < 0.1
    uniform = collapse(teacher_temperature=1.0)
    assert uniform["batch_entropy"] == pytest.approx(math.log(24), abs=0.02)
    assert uniform["teacher_entropy"] == pytest.approx(math.log(24), abs=0.02) and uniform["kl"] < 0.05


@pytest.mark.parametrize("wrong", [{"student_temperature": 0.0}, {"momentum": 1.5}, {"freeze_backbone": -0.1}])
def test_impossible_values(wrong):
    with pytest.raises(VitrailError, match=next(iter(wrong))):
        DINOOptions(**wrong)
