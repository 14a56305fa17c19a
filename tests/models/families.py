"""What every family must do, as functions that a family's tests call with its own tiny model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vitrail.data import Preprocess
from vitrail.explain import record
from vitrail.models import Backbone
from vitrail.weights import Artefact, load_artefact


def assert_trains(model: Backbone, images: Tensor, idle: frozenset[str] = frozenset()) -> None:
    """Forward and backward reach every parameter."""
    model.train()
    logits = model(images)
    assert logits.shape == (len(images), model.num_classes)
    logits.square().sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == idle


def assert_runs_in_half(model: Backbone, images: Tensor) -> None:
    """bfloat16 by autocast and throughout gives finite answers near the exact ones."""
    model.eval()
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(images)
        half = model.bfloat16()(images.bfloat16())
        model.float()
    for answer in (mixed, half):
        assert answer.dtype == torch.bfloat16
        assert float((answer.float() - exact).abs().max()) < 0.1 * float(exact.abs().max()) + 0.05


def assert_compiles(model: Backbone, images: Tensor) -> None:
    """Traced as one graph, forward and backward, with the same answers."""
    torch.compiler.reset()
    model.eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    answer = compiled(images)
    torch.testing.assert_close(answer, model(images), atol=1e-5, rtol=1e-5)
    answer.sum().backward()


def assert_survives_an_artefact(model: Backbone, images: Tensor, folder: Path) -> None:
    """What is saved and loaded answers bit for bit the same."""
    model.eval()
    classes = tuple(f"class {i}" for i in range(model.num_classes))
    Artefact(model, classes, Preprocess(size=model.img_size)).save_pretrained(folder)
    loaded = load_artefact(folder).model.eval()
    assert loaded.config == model.config
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def assert_attention_is_recorded(model: Backbone, images: Tensor, layers: int) -> None:
    """Every layer's rows sum to one over its own grid."""
    model.eval()
    with record(model, queries=None) as attention, torch.no_grad():
        model(images)
    assert attention.layers == tuple(range(layers))
    for layer in attention.layers:
        found = attention[layer]
        count = found.prefix + found.grid[0] * found.grid[1]
        assert found.weights.shape[-2:] == (count, count)
        torch.testing.assert_close(found.weights.sum(-1), torch.ones(found.weights.shape[:-1]))
