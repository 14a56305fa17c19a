"""DINOv2's losses against their equations in float64, its masks, and what learns when."""

from dataclasses import replace

import pytest
import torch

from tests.methods.views import SMALL, STILL, at, difference, double, plain_head, tiny_vit, view_batch
from vitrail.contracts import Role, VitrailError
from vitrail.data.views import LOCAL_VIEWS, MASKS, SECOND_VIEW
from vitrail.methods import DINOv2, DINOv2Options
from vitrail.methods.dinov2 import draw_mask, koleo, masked_patch_loss, sinkhorn_knopp

OPTIONS = DINOv2Options(**SMALL, **STILL, local_crops=2)


def dinov2(options: DINOv2Options = OPTIONS, **changes: object) -> DINOv2:
    """Student and teacher differ."""
    method = DINOv2(tiny_vit(**changes), options).train()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if name.startswith("teacher"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return method


def sinkhorn_equation(scores: torch.Tensor, rounds: int = 3) -> torch.Tensor:
    """SwAV's algorithm, appendix A.1: a K×B matrix, rows to 1/K and columns to 1/B in turn."""
    q = scores.double().exp().T
    prototypes, samples = q.shape
    q = q / q.sum()
    for _ in range(rounds):
        q = q / q.sum(dim=1, keepdim=True) / prototypes
        q = q / q.sum(dim=0, keepdim=True) / samples
    return (q * samples).T


def koleo_equation(features: torch.Tensor) -> torch.Tensor:
    """Section 4: -1/n Σ log d_i with d_i the distance to the nearest other feature, on the unit sphere."""
    x = features.double() / features.double().norm(dim=1, keepdim=True)
    total = x.new_zeros(())
    for i in range(len(x)):
        others = torch.stack([(x[i] - x[j]).norm() for j in range(len(x)) if j != i])
        total = total - torch.log(others.min())
    return total / len(x)


def equation(method: DINOv2, batch, temperature: float):
    """All losses and the gradient of their sum, one network, view and patch at a time."""
    student, teacher = double(method.student), double(method.teacher)
    head, patch_head = double(method.student_head), double(method.student_patch_head)
    whole = [batch.images.double(), batch.extras[SECOND_VIEW].double()]
    masks = batch.extras[MASKS].unbind(1)
    count = len(batch)
    with torch.no_grad():
        seen = [teacher.features(view).values for view in whole]
        classes = torch.cat([plain_head(double(method.teacher_head), tokens[:, 0]) for tokens in seen])
        targets = sinkhorn_equation(classes / temperature).split(count)
        hidden = torch.cat([tokens[:, 1:][mask] for tokens, mask in zip(seen, masks, strict=True)])
        patch_targets = sinkhorn_equation(plain_head(double(method.teacher_patch_head), hidden) / temperature)
    tokens = [student.encode(student.embed(view, mask)).values for view, mask in zip(whole, masks, strict=True)]
    local = [student.features(view.double()).values[:, 0] for view in batch.extras[LOCAL_VIEWS].unbind(1)]
    said = [(plain_head(head, view) / 0.1).softmax(-1).log() for view in [t[:, 0] for t in tokens] + local]
    pairs = [-(target * s).sum(-1).mean() for i, target in enumerate(targets) for v, s in enumerate(said) if v != i]
    dino = torch.stack(pairs).mean()
    ibot, place = dino.new_zeros(()), 0
    for view, mask in zip(tokens, masks, strict=True):
        for sample in range(count):
            patches = view[sample, 1:][mask[sample]]
            if len(patches):
                log = (plain_head(patch_head, patches) / 0.1).softmax(-1).log()
                ibot = ibot - (patch_targets[place : place + len(patches)] * log).sum(-1).mean() / (2 * count)
                place += len(patches)
    spread = koleo_equation(tokens[0][:, 0]) + koleo_equation(tokens[1][:, 0])
    loss = dino + ibot + 0.1 * spread
    loss.backward()
    parts = {"student": student, "student_head": head, "student_patch_head": patch_head}
    gradients = {f"{part}.{name}": p.grad for part, module in parts.items() for name, p in module.named_parameters()}
    return {"loss": loss, "dino": dino, "ibot": ibot, "koleo": spread}, gradients


def test_one_step_has_the_losses_and_gradient_of_the_equations(record_property):
    method, batch = dinov2(), view_batch(masks=True)
    expected, gradients = equation(method, batch, 0.07)
    found = method(batch, at(50))
    found["loss"].backward()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value.detach(), atol=1e-5, rtol=1e-5)
    worst = 0.0
    for name, parameter in method.named_parameters():
        if gradients.get(name) is not None:
            assert parameter.grad is not None, name
            worst = max(worst, difference(parameter.grad, gradients[name]))
    assert worst <= 1e-4
    record_property("gradient_difference", worst)
    assert all(p.grad is None for name, p in method.named_parameters() if name.startswith("teacher"))
    assert method.student.mask_token.grad.any()


def test_registers_are_no_patches():
    method, batch = dinov2(registers=2), view_batch(masks=True)
    tokens = method.student.features(batch.images)
    assert tokens.prefix == 3 and tokens.patches.shape[1] == 16
    assert method(batch, at(50))["loss"].isfinite()


def test_sinkhorn_knopp_is_the_published_iteration():
    scores = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) * 3
    found = sinkhorn_knopp(scores.double())
    torch.testing.assert_close(found, sinkhorn_equation(scores))
    torch.testing.assert_close(found.sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(sinkhorn_knopp(scores.double(), 200).sum(0), torch.full((5,), 12 / 5).double())
    assert sinkhorn_knopp(torch.zeros(0, 5)).shape == (0, 5)
    # As sharp as it gets: cosines of 1 and -1 over the smallest temperature.
    assert sinkhorn_knopp(torch.tensor([[25.0, -25.0], [25.0, -25.0]])).isfinite().all()


def test_koleo_is_the_mean_log_distance_to_the_nearest():
    features = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    koleo_equation(features).backward()
    expected, features.grad = features.grad, None
    found = koleo(features)
    found.backward()
    torch.testing.assert_close(found, koleo_equation(features))
    torch.testing.assert_close(features.grad, expected, atol=1e-6, rtol=1e-5)
    twins = torch.ones(2, 4, requires_grad=True)
    koleo(twins).backward()
    assert koleo(twins).isfinite() and twins.grad.isfinite().all()


def test_views_without_masked_patches_count_as_nothing():
    masks = torch.tensor([[True, True, False], [False, False, False]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    said = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    expected = -(torch.tensor(0.25).log() + torch.tensor(0.5).log()) / 2 / 2
    torch.testing.assert_close(masked_patch_loss(targets, said, masks), expected)
    assert masked_patch_loss(targets[:0], said[:0], torch.zeros_like(masks)) == 0


def test_without_any_masked_patch_a_step_still_trains():
    method, batch = dinov2(), view_batch(masks=True)
    found = method(replace(batch, extras={**batch.extras, MASKS: torch.zeros(3, 2, 16, dtype=torch.bool)}), at(50))
    found["loss"].backward()
    assert found["ibot"] == 0 and all(value.isfinite() for value in found.values())
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_masks_have_the_stated_chance_and_share():
    torch.manual_seed(0)
    shares = torch.stack([draw_mask((10, 10), OPTIONS).float().mean() for _ in range(400)])
    masked = shares[shares > 0]
    assert 160 < len(masked) < 240 and 0.1 <= masked.min() < 0.13 and 0.46 < masked.max() <= 0.5
    assert abs(masked.mean() - 0.3) < 0.02


def test_the_heads_are_untied_and_what_is_frozen_stays():
    method = dinov2(replace(OPTIONS, freeze_last_layer=1, freeze_backbone=0.3))
    assert not torch.equal(method.student_head.mlp[0].weight, method.student_patch_head.mlp[0].weight)

    def learning(step):
        method.zero_grad(set_to_none=True)
        method(view_batch(masks=True), at(step))["loss"].backward()
        return {".".join(name.split(".")[:2]) for name, p in method.named_parameters() if p.grad is not None}

    heads = {"student_head.mlp", "student_patch_head.mlp"}
    assert learning(5) == heads
    assert learning(20) == heads | {"student_head.last_layer", "student_patch_head.last_layer"}
    assert {"student.blocks", "student.mask_token"} <= learning(30)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.after_step(at(50))
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("student"), name
    roles = method.roles()
    # A fresh mask token must not wait for the rate of the first layer.
    assert roles["student.mask_token"] == Role(3, decay=False) and roles["student.cls_token"].depth == 0
    assert set(roles) == {name for name, p in method.named_parameters() if not name.startswith("teacher")}


@pytest.mark.parametrize("missing", ["mask_token", "class_token"])
def test_models_without_the_tokens_are_refused(missing):
    changes = {"mask_token": False} if missing == "mask_token" else {"class_token": False, "pool": "mean"}
    with pytest.raises(VitrailError, match=missing):
        DINOv2(tiny_vit(**changes), OPTIONS)


def test_a_model_that_leaves_out_patches_is_refused():
    with pytest.raises(VitrailError, match=r"patch_drop=0\.5 would leave out masked patches"):
        DINOv2(tiny_vit(patch_drop=0.5), OPTIONS)


@pytest.mark.parametrize("wrong", [{"mask_ratio": (0.5, 0.1)}, {"teacher_temperature": 0.0}, {"mask_chance": 2.0}])
def test_impossible_values(wrong):
    with pytest.raises(VitrailError, match=next(iter(wrong))):
        DINOv2Options(**wrong)
