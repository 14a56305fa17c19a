"""A prepared model answers as the plain one does, for every family, and leaves it as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tests.models.tiny import TINY
from vitrail.explanations import record
from vitrail.models import Backbone, Model, build, config_of
from vitrail.models.tune import tune_head
from vitrail.nn import ACTIVATIONS, Mlp
from vitrail.nn.linear import KeylessLinear
from vitrail.nn.lora import LoRALinear
from vitrail.nn.residual import LayerScale
from vitrail.speed import native
from vitrail.speed import packed as packed_module
from vitrail.speed.packed import PackedLinear, missing_operators
from vitrail.speed.prepare import Prepared, pack, prepare

# By name: the package itself calls the function so.
module = import_module("vitrail.speed.prepare")
CPU = torch.device("cpu")
every_model = pytest.mark.parametrize("name", TINY)
packs = pytest.mark.skipif(bool(missing_operators()), reason=missing_operators() or "packs")


@pytest.fixture(autouse=True)
def _packing_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a busy machine decides nothing here."""
    monkeypatch.setattr(module, "_layer_times", lambda: [2.0, 1.0])
    monkeypatch.setattr(native, "_attention_times", lambda kernel: [3.0, 1.0])
    monkeypatch.setattr(native, "remembered", lambda question, device, measure: measure())
    monkeypatch.setattr(module, "remembered", lambda question, device, measure: measure())


def tiny(name: str, **overrides: Any) -> Model:
    """Its weights perturbed, its layer scales large enough to matter."""
    torch.manual_seed(0)
    model = build(config_of(name, {**TINY[name], **overrides})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for part in model.modules():
            if isinstance(part, LayerScale):
                part.gamma.uniform_(0.2, 1.0)
    return model


def inputs_of(model: Model, batch: int = 2) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return model.example_inputs(batch)


def numbers(answer: object) -> Tensor:
    leaves = [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return torch.cat([leaf.float().flatten() for leaf in leaves])


def error(answer: object, exact: object) -> float:
    return float((numbers(answer) - numbers(exact)).norm() / numbers(exact).norm())


def under_autocast(model: nn.Module, *inputs: Tensor) -> Any:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return model(*inputs)


@every_model
def test_fp32_is_the_plain_model_bit_for_bit(name: str) -> None:
    model = tiny(name)
    inputs = inputs_of(model)
    with torch.inference_mode():
        exact = model(*inputs)
    found = prepare(model, CPU, "fp32", 64)(*inputs)
    assert type(found) is type(exact) and torch.equal(numbers(found), numbers(exact))


@packs
@every_model
def test_bf16_is_as_near_to_float32_as_autocast(name: str) -> None:
    model = tiny(name)
    inputs = inputs_of(model)
    with torch.inference_mode():
        exact = model(*inputs)
    ready = prepare(model, CPU, "bf16", 2)
    plain = error(under_autocast(model, *inputs), exact)
    # Rounding of so few numbers is a matter of luck: a quarter more is within it; models of full size are measured in
    # docs/benchmarks.md.
    assert error(ready(*inputs), exact) <= max(1.25 * plain, 0.012), ready.choice


@every_model
def test_the_callers_model_stays_as_it_was(name: str) -> None:
    model = tiny(name).train()
    told: list[int] = []
    handle = model.register_forward_hook(lambda *_: told.append(1))
    before = {key: (value, value.clone(), value.dtype) for key, value in model.state_dict(keep_vars=True).items()}
    kinds = {key: type(part) for key, part in model.named_modules()}
    hooks = dict(model._forward_hooks)
    prepare(model, CPU, "bf16", 2)(*inputs_of(model))
    after = model.state_dict(keep_vars=True)
    assert after.keys() == before.keys()
    for key, (tensor, value, dtype) in before.items():
        assert after[key] is tensor or not isinstance(tensor, nn.Parameter)
        assert torch.equal(after[key], value) and after[key].dtype == dtype
    assert {key: type(part) for key, part in model.named_modules()} == kinds
    assert all(part.training for part in model.modules())
    assert dict(model._forward_hooks) == hooks
    handle.remove()


@every_model
def test_weights_are_shared_and_keep_their_names(name: str) -> None:
    model = tiny(name)
    twin = prepare(model, CPU, "bf16", 2).model
    assert type(twin) is type(model) and not any(part.training for part in twin.modules())
    theirs, ours = dict(model.named_parameters()), dict(twin.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[key] is theirs[key] for key in ours)


@packs
def test_what_follows_a_product_is_done_with_it() -> None:
    model = tiny("vit_small_patch14_dinov2")
    ready = prepare(model, CPU, "bf16", 2)
    kinds = [type(part) for part in ready.model.modules()]
    assert LayerScale not in kinds and nn.GELU not in kinds and nn.Linear not in kinds
    assert (
        ready.form.startswith("bf16 packed") and "8 linear layers packed" in ready.choice and "\n" not in ready.choice
    )


@packs
@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), nn.ReLU])
def test_a_fused_activation_is_the_activation_to_rounding(activation: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    mlp, x = Mlp(64, 128, activation).eval(), 3 * torch.randn(2, 50, 64).bfloat16()
    twin = nn.Sequential(Mlp(64, 128, activation))
    twin.load_state_dict({f"0.{key}": value for key, value in mlp.state_dict().items()})
    pack(twin.eval())
    exact_weights = {key: value.bfloat16().float() for key, value in mlp.state_dict().items()}
    mlp.load_state_dict(exact_weights)
    with torch.inference_mode():
        exact = mlp(x.float())
        with torch.autocast("cpu", torch.bfloat16):
            found = twin(x)
    # Two roundings to 8 bits: of what lies between the layers, and of the result.
    assert error(found, exact) < 2**-8


@packs
@pytest.mark.parametrize("shape", [(3, 24), (2, 5, 24), (2, 3, 4, 24), (1, 24), (0, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_layer(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 10, bias=bias), torch.randn(shape)
    packed = PackedLinear(layer)
    with torch.inference_mode():
        assert torch.equal(packed(x), layer(x))  # Outside autocast: in float32.
        with torch.autocast("cpu", torch.bfloat16):
            expected, found = layer(x), packed(x)
    assert found.dtype == torch.bfloat16 and found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=2**-7)


@packs
def test_a_gradient_goes_through_the_exact_layer() -> None:
    layer = nn.Linear(24, 10)
    packed, x = PackedLinear(layer), torch.randn(2, 24, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        packed(x).sum().backward()
    assert x.grad is not None and x.grad.any()


@packs
@pytest.mark.parametrize("make", [lambda: nn.Linear(24, 30), lambda: KeylessLinear(24, 30)])
def test_a_third_of_a_packed_projection(make: Callable[[], nn.Linear | KeylessLinear]) -> None:
    layer, x = make(), torch.randn(2, 5, 24)
    packed = PackedLinear(layer)
    with torch.inference_mode():
        whole = layer(x)
        for third, expected in enumerate(whole.chunk(3, dim=-1)):
            torch.testing.assert_close(packed.third(x, third), expected)


@packs
@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "swin_tiny_patch4_window7_224", "beit_base_patch16_224"])
def test_attention_is_recorded_as_on_the_plain_model(name: str) -> None:
    model = tiny(name)
    inputs = inputs_of(model)
    ready = prepare(model, CPU, "bf16", 2)
    with torch.inference_mode(), record(model) as expected:
        model(*inputs)
    with record(ready.model) as found:
        ready(*inputs)
    assert found.layers == expected.layers
    for layer in expected.layers:
        weights = found[layer].weights
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights, expected[layer].weights, rtol=0.1, atol=0.01)


@packs
def test_large_batches_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("vit_tiny_patch16_224")
    assert isinstance(model, Backbone)
    (images,) = inputs_of(model, 5)
    monkeypatch.setattr(module, "AT_ONCE", 2 * 32 * 32)
    monkeypatch.setattr(module, "freed_memory_is_kept", lambda: False)
    whole = prepare(model, CPU, "bf16", 5)
    assert "2 pictures at once" in whole.choice
    seen: list[int] = []
    whole.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    found = whole(images)
    assert seen == [2, 2, 1] and found.shape == (5, 5)
    torch.testing.assert_close(found, under_autocast(model, images), rtol=0.05, atol=0.02)
    assert whole(images[:0]).shape == (0, 5)
    monkeypatch.setattr(module, "freed_memory_is_kept", lambda: True)
    assert prepare(model, CPU, "bf16", 5).at_once is None


def test_an_adapted_layer_keeps_its_update() -> None:
    model = tiny("vit_tiny_patch16_224")
    layer = model.get_submodule("blocks.0.attn.qkv")
    assert isinstance(layer, nn.Linear)
    adapted = LoRALinear(layer, 2)
    nn.init.normal_(adapted.lora_b)
    model.set_submodule("blocks.0.attn.qkv", adapted)
    inputs = inputs_of(model)
    ready = prepare(model, CPU, "bf16", 2)
    if not missing_operators():
        assert "1 left to autocast" in ready.choice
    assert error(ready(*inputs), under_autocast(model, *inputs)) < 0.02


class TestFallbacks:
    def plain(self, ready: Prepared[Model], reason: str) -> None:
        assert ready.form == "bf16" and reason in ready.choice and ready.at_once is None
        assert not any(isinstance(part, PackedLinear) for part in ready.model.modules())

    def test_missing_operators(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packed_module, "PRODUCT", "mkldnn::_of_another_version")
        model = tiny("vit_tiny_patch16_224")
        ready = prepare(model, CPU, "bf16", 2)
        self.plain(ready, "this version of torch has no packed layers")
        assert torch.equal(ready(*inputs_of(model)), under_autocast(model, *inputs_of(model)))

    @packs
    def test_no_gain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_layer_times", lambda: [1.0, 1.0])
        self.plain(prepare(tiny("vit_tiny_patch16_224"), CPU, "bf16", 2), "no quicker here")

    @packs
    def test_an_operator_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails() -> list[float]:
            raise RuntimeError("could not create a primitive")

        monkeypatch.setattr(module, "_layer_times", fails)
        self.plain(prepare(tiny("vit_tiny_patch16_224"), CPU, "bf16", 2), "could not create a primitive")

    @packs
    def test_a_model_without_linear_layers(self) -> None:
        self.plain(prepare(tiny("dvae_tiny_stride4_28"), CPU, "bf16", 2), "there are no linear layers")

    def test_another_device(self) -> None:
        self.plain(prepare(tiny("vit_tiny_patch16_224"), torch.device("meta"), "bf16", 2), "for the CPU")


@pytest.mark.parametrize(("pays", "form"), [(True, "bf16"), (False, "fp32")])
@packs
def test_auto_follows_the_clock_and_says_so(monkeypatch: pytest.MonkeyPatch, pays: bool, form: str) -> None:
    monkeypatch.setattr(module, "bf16_pays", lambda device: (pays, "as timed"))
    ready = prepare(tiny("vit_tiny_patch16_224"), CPU, "auto", 2)
    assert ready.form.split()[0] == form and "as timed" in ready.choice


@packs
class TestPreparedInUse:
    """What people do with a model besides asking it."""

    def test_it_can_be_copied_and_prepared_again(self) -> None:
        model = tiny("vit_tiny_patch16_224")
        ready = prepare(model, CPU, "bf16")
        (images,) = inputs_of(model)
        wanted = ready(images)
        for again in (copy.deepcopy(ready.model), ready.model):
            assert torch.equal(prepare(again, CPU, "bf16")(images), wanted)
            with torch.inference_mode(), ready.context():
                assert torch.equal(again(images), wanted)

    def test_it_follows_its_parameters(self) -> None:
        model = tiny("vit_tiny_patch16_224")
        ready = prepare(model, CPU, "bf16")
        (images,) = inputs_of(model)
        before = ready(images)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        wanted = prepare(model, CPU, "bf16")(images)
        assert torch.equal(ready(images), wanted) and not torch.equal(wanted, before)

    def test_a_head_that_learns_on_frozen_layers_gets_its_gradient(self) -> None:
        model = tiny("vit_tiny_patch16_224")
        tune_head(model)
        ready = prepare(model, CPU, "bf16")
        (images,) = inputs_of(model)
        with torch.autocast("cpu", torch.bfloat16):
            ready.model(images).float().sum().backward()
        assert model.head.weight.grad is not None and float(model.head.weight.grad.abs().sum()) > 0
