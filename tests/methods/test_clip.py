"""Both contrastive losses held to the papers' equations in float64, to open_clip, and to one process with all pairs."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.methods.processes import run_ranks
from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.methods import CLIP, CLIPOptions
from vitrail.models import DualEncoder, DualEncoderConfig

START = Progress(0, 10, 0, 1)
SIZE = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "text_dim": 16,
    "text_depth": 1,
    "text_heads": 2,
    "vocab_size": 12,
    "context_length": 5,
    "end_token": 11,
    "pad_token": 11,
    "joint_dim": 8,
}
KINDS = ("softmax", "sigmoid")


def method(loss: str, **options: float) -> CLIP:
    torch.manual_seed(0)
    model = DualEncoder(DualEncoderConfig(**SIZE, loss=loss))  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif name == "logit_bias":
                parameter.fill_(-1.5)
    return CLIP(model, CLIPOptions(**options))


def batch(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 16, 16, generator=generator)
    tokens = torch.randint(11, (count, 5), generator=generator)
    tokens[:, -1] = 11
    return Batch(images, None, torch.arange(count), tuple(map(str, range(count))), {"caption": tokens})


def embedded(trained: CLIP) -> tuple[list[list[float]], list[list[float]]]:
    with torch.no_grad():
        images = trained.model.embed_images(batch().images)
        texts = trained.model.embed_texts(batch().extras["caption"])
    return images.double().tolist(), texts.double().tolist()


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_the_softmax_loss_is_clips_figure_3() -> None:
    trained = method("softmax")
    images, texts = embedded(trained)
    factor = math.exp(trained.model.logit_scale.item())
    table = [[factor * dot(image, text) for text in texts] for image in images]

    def cross_entropy(rows: list[list[float]]) -> float:
        return sum(math.log(sum(map(math.exp, row))) - row[n] for n, row in enumerate(rows)) / len(rows)

    expected = (cross_entropy(table) + cross_entropy([list(column) for column in zip(*table, strict=True)])) / 2
    found = trained(batch(), START)
    assert found["loss"].item() == pytest.approx(expected, abs=1e-5)
    best = [max(range(6), key=row.__getitem__) == n for n, row in enumerate(table)]
    assert found["retrieved"].item() == pytest.approx(sum(best) / 6)
    assert found["scale"].item() == pytest.approx(1 / 0.07, rel=1e-5)
    others = [dot(texts[i], texts[j]) for i in range(6) for j in range(6) if i != j]
    assert found["text_cosine"].item() == pytest.approx(sum(others) / 30, abs=1e-5)


def test_the_sigmoid_loss_is_siglips_algorithm_1() -> None:
    trained = method("sigmoid")
    images, texts = embedded(trained)
    factor, bias = math.exp(trained.model.logit_scale.item()), trained.model.logit_bias.item()
    expected = 0.0
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            sign = 1.0 if i == j else -1.0
            expected += math.log(1 + math.exp(-sign * (factor * dot(image, text) + bias))) / 6
    found = trained(batch(), START)
    assert found["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert found["bias"].item() == pytest.approx(-1.5)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_equal_open_clip(kind: str) -> None:
    losses = pytest.importorskip("open_clip.loss")
    trained = method(kind)
    found = trained(batch(), START)["loss"]
    found.backward()
    ours = {name: p.grad.clone() for name, p in trained.named_parameters() if p.grad is not None}
    trained.zero_grad()
    images, texts = (
        trained.model.embed_images(batch().images),
        trained.model.embed_texts(batch().extras["caption"]),
    )
    scale = trained.model.logit_scale.exp()
    if kind == "softmax":
        expected = losses.ClipLoss()(images, texts, scale)
    else:
        expected = losses.SigLipLoss()(images, texts, scale, trained.model.logit_bias)
    torch.testing.assert_close(found, expected)
    expected.backward()
    theirs = {name: p.grad for name, p in trained.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], atol=1e-5, rtol=1e-4, msg=name)


# ---------------------------------------------------------------------- several processes

SHARES = {"even": (3, 3), "uneven": (4, 2)}


def share_of_pairs(kind: str, counts: tuple[int, ...], rank: int, ranks: int) -> dict[str, Any]:
    trained = method(kind)
    whole, begin = batch(), sum(counts[:rank])
    mine = slice(begin, begin + counts[rank])
    part = Batch(
        whole.images[mine], None, whole.indices[mine], whole.names[mine], {"caption": whole.extras["caption"][mine]}
    )
    # What the engine does: each picture counts the same, gradients are averaged over the processes.
    share = counts[rank] * ranks / sum(counts)
    loss = trained(part, START)["loss"]
    (loss * share).backward()
    mean = loss.detach() * share
    dist.all_reduce(mean)
    grads = {}
    for name, parameter in trained.named_parameters():
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad)
        grads[name] = parameter.grad / ranks
    return {"loss": mean / ranks, "grads": grads}


@pytest.mark.parametrize("counts", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_loss_and_gradient_of_one_with_all_pairs(
    kind: str, counts: tuple[int, ...], tmp_path: Path
) -> None:
    found, _ = run_ranks(partial(share_of_pairs, kind, counts), tmp_path / "ranks", len(counts))
    trained = method(kind)
    loss = trained(batch(), START)["loss"]
    loss.backward()
    torch.testing.assert_close(found["loss"], loss.detach())
    for name, parameter in trained.named_parameters():
        torch.testing.assert_close(found["grads"][name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


# ---------------------------------------------------------------------- the rest


def test_the_temperature_stays_below_its_limit_for_the_softmax_alone() -> None:
    for kind, options, largest in (
        ("softmax", {}, 100.0),
        ("sigmoid", {}, 500.0),
        ("sigmoid", {"max_scale": 50}, 50.0),
    ):
        trained = method(kind, **options)
        with torch.no_grad():
            trained.model.logit_scale.fill_(math.log(500.0))
            trained.after_step(START)
        assert trained.model.logit_scale.exp().item() == pytest.approx(largest, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_learnt_in_a_few_steps(kind: str) -> None:
    trained = method(kind)
    optimiser = torch.optim.AdamW(trained.parameters(), lr=5e-3)
    losses = []
    for _ in range(80):
        optimiser.zero_grad()
        terms = trained(batch(), START)
        terms["loss"].backward()
        optimiser.step()
        losses.append(terms["loss"].item())
    assert losses[-1] < 0.2 * losses[0] and trained(batch(), START)["retrieved"].item() == 1.0
    assert trained.export() is trained.model
    assert set(trained.roles()) == {name for name, _ in trained.named_parameters()}


def test_half_precision_does_not_touch_the_logits() -> None:
    trained = method("sigmoid")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = trained(batch(), START)["loss"]
    assert loss.dtype == torch.float32


def test_what_cannot_train_is_refused() -> None:
    plain = batch()
    with pytest.raises(VitrailError, match="without captions"):
        method("softmax")(Batch(plain.images, None, plain.indices, plain.names), START)
    with pytest.raises(VitrailError, match=r"from 1 on, not 0\.5"):
        CLIPOptions(max_scale=0.5)


def test_collapse_is_seen_in_the_log() -> None:
    """Captions that are all alike have a mean cosine of 1, whatever the loss says."""
    found = batch()
    found.extras["caption"][:] = found.extras["caption"][:1].clone()
    assert method("softmax")(found, START)["text_cosine"].item() == pytest.approx(1.0, abs=1e-5)
    assert method("softmax")(batch(), START)["text_cosine"].item() < 0.99
