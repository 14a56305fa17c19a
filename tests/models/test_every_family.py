"""What must hold for every model name: one test per promise, over tiny variants of all families."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.models.tiny import TINY
from vitrail.contracts import VitrailError
from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.explanations import record
from vitrail.explanations.record import attention_layers
from vitrail.models import FAMILIES, MODELS, Model, build, config_of
from vitrail.nn.embed import as_pair
from vitrail.weights import Artefact, load_artefact

every_model = pytest.mark.parametrize("name", TINY)


def tiny(name: str, **overrides: Any) -> Model:
    torch.manual_seed(0)
    return build(config_of(name, {**TINY[name], **overrides}))


def inputs_of(model: Model, size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return model.example_inputs(2, size)


def tensors(answer: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def test_every_family_has_a_tiny_variant() -> None:
    assert {type(config_of(name)) for name in TINY} == set(FAMILIES)
    assert set(TINY) <= set(MODELS)


@every_model
def test_made_without_memory_it_gives_shapes_and_with_weights_loaded_the_same_answers(name: str) -> None:
    whole = tiny(name).eval()
    inputs = inputs_of(whole)
    with torch.no_grad():
        expected = tensors(whole(*inputs))
    for assign in (False, True):
        with torch.device("meta"):
            empty = tiny(name).eval()
        assert [t.shape for t in tensors(empty(*empty.example_inputs(2)))] == [t.shape for t in expected]
        filled = empty if assign else empty.to_empty(device="cpu")
        filled.load_state_dict(whole.state_dict(), strict=True, assign=assign)
        with torch.no_grad():
            assert all(torch.equal(a, b) for a, b in zip(tensors(filled(*inputs)), expected, strict=True))


@every_model
def test_forward_and_backward(name: str) -> None:
    model = tiny(name).train()
    answers = tensors(model(*inputs_of(model)))
    assert answers and all(answer.isfinite().all() for answer in answers)
    torch.stack(
        [(answer * torch.randn_like(answer)).sum() for answer in answers if answer.requires_grad]
    ).sum().backward()
    learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
    reached = [n for n, p in learned.items() if p.grad is not None]
    # Tokens and tables that only a training objective uses may wait for it.
    assert len(reached) >= 0.8 * len(learned)


@every_model
def test_bf16_answers_like_fp32(name: str) -> None:
    model = tiny(name).eval()
    inputs = inputs_of(model)
    with torch.no_grad():
        exact = tensors(model(*inputs))
        with torch.autocast("cpu", torch.bfloat16):
            mixed = tensors(model(*inputs))
        cast = tensors(model.bfloat16()(*(x.bfloat16() if x.is_floating_point() else x for x in inputs)))
    for one, two, three in zip(exact, mixed, cast, strict=True):
        for other in (two, three):
            assert other.isfinite().all()
            assert float((one - other.float()).norm()) <= 0.1 * float(one.norm()) + 0.05


def test_compile_traces_the_whole_forward_pass_of_every_model() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.models.compile_all"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@every_model
def test_the_artefact_gives_the_model_back(name: str, tmp_path: Path) -> None:
    model = tiny(name).eval()
    bands = model.in_channels
    size = as_pair(model.config.img_size)
    mean, std = (IMAGENET_MEAN * bands)[:bands], (IMAGENET_STD * bands)[:bands]
    Artefact(model, (), Preprocess(size=size, mean=mean, std=std)).save_pretrained(tmp_path / "model")
    again = load_artefact(tmp_path / "model").model
    assert again.config == model.config
    inputs = inputs_of(model)
    with torch.no_grad():
        for one, other in zip(tensors(model(*inputs)), tensors(again(*inputs)), strict=True):
            assert torch.equal(one, other)


@every_model
def test_feature_maps_at_every_depth(name: str) -> None:
    model = tiny(name).eval()
    images = inputs_of(model)[0]
    with torch.no_grad():
        maps = model.feature_maps(images)
        raw = model.feature_maps(images, norm=False)
        last = model.feature_maps(images, (-1, 0))
    assert len(maps) == len(raw) == model.taps
    assert all(m.ndim in (4, 5) and m.shape[0] == 2 and m.isfinite().all() for m in maps)
    torch.testing.assert_close(last[0], maps[-1])
    torch.testing.assert_close(last[1], maps[0])
    with pytest.raises(IndexError, match=str(model.taps)):
        model.intermediates(images, (model.taps,))


@every_model
def test_attention_can_be_recorded_and_changes_nothing(name: str) -> None:
    model = tiny(name).eval()
    inputs = inputs_of(model)
    with torch.no_grad():
        expected = tensors(model(*inputs))
        if not attention_layers(model):
            with pytest.raises(VitrailError, match="no attention"), record(model):
                model(*inputs)
            return
        with record(model) as attention:
            found = tensors(model(*inputs))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)
    for layer in attention.layers:
        weights = attention[layer].weights
        assert weights.dtype == torch.float32 and (weights >= 0).all()
        assert (weights.sum(-1) <= 1 + 1e-4).all() and (weights.sum(-1) > 0).all()


@every_model
def test_another_shape_works_or_is_refused_with_sizes_that_do(name: str) -> None:
    model = tiny(name).eval()
    height, width = model.img_size
    step = model.patch_size
    with torch.no_grad():
        for size in ((height, width + step[1]), (height + 2 * step[0], width), (height + 1, width)):
            try:
                answers = tensors(model(*inputs_of(model, size)))
            except VitrailError as error:
                assert any(character.isdigit() for character in str(error))
            else:
                assert all(answer.isfinite().all() for answer in answers)


@every_model
def test_every_parameter_has_a_role(name: str) -> None:
    model = tiny(name)
    roles = model.roles()
    assert roles.keys() == dict(model.named_parameters()).keys()
    assert min(role.depth for role in roles.values()) == 0
    assert not any(roles[n].decay for n, p in model.named_parameters() if p.ndim < 2)
