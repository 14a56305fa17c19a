"""Config, schedule, parameter groups, moving average, precision, seeds: against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vitrail import machine
from vitrail.contracts import Role, VitrailError
from vitrail.engine import (
    Ema,
    EngineConfig,
    World,
    build_optimiser,
    choose_precision,
    ema_decay_at,
    parameter_groups,
    resolve_device,
    schedule_factor,
    warmup_steps,
)
from vitrail.engine.optimiser import set_rates
from vitrail.engine.randomness import AFTER_STEP, derive_seed, seed_everything

from .tiny import Mlp, TinyMethod, tiny_config, weights


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"epochs": -2},
        {"lr": math.nan},
        {"lr": math.inf},
        {"lr": 0.0},
        {"lr": -1e-3},
        {"min_lr": 1.0},
        {"min_lr": math.nan},
        {"warmup_lr": 1.0},
        {"warmup_fraction": 1.0},
        {"warmup_fraction": -0.1},
        {"warmup_fraction": math.nan},
        {"weight_decay": -0.1},
        {"layer_decay": 0.0},
        {"layer_decay": 1.5},
        {"betas": (0.9, 1.0)},
        {"clip_norm": 0.0},
        {"clip_norm": math.nan},
        {"ema_decay": 1.0},
        {"precision": "fp16"},
        {"accumulate": 0},
        {"seed": -1},
        {"checkpoint_every_s": 0.0},
        {"checkpoint_every_steps": 0},
        {"eval_every": 0},
        {"log_every": 0},
    ],
    ids=str,
)
def test_config_names_the_bad_field(bad: dict[str, Any]) -> None:
    (name,) = bad
    with pytest.raises(VitrailError, match=f"^{name}="):
        EngineConfig(**{"epochs": 1, "lr": 1e-3, **bad})


def test_fingerprint_leaves_out_what_does_not_change_the_weights() -> None:
    base = tiny_config()
    free = tiny_config(checkpoint_every_s=3.0, checkpoint_every_steps=7, eval_every=2, log_every=9)
    assert base.fingerprint() == free.fingerprint()
    assert base.fingerprint() != tiny_config(weight_decay=0.06).fingerprint()
    assert base.fingerprint()["lr"] == "0.05"


def test_schedule_by_hand() -> None:
    # 100 steps, 10 of warm-up; lr 1e-3, from 1e-6, to 1e-5.
    assert warmup_steps(100, 0.1) == 10

    def rate(step: int) -> float:
        return 1e-3 * schedule_factor(step, 100, 10, start=1e-3, end=1e-2)

    assert rate(0) == pytest.approx(1e-6)
    assert rate(5) == pytest.approx(1e-6 + 0.5 * (1e-3 - 1e-6))
    assert rate(10) == pytest.approx(1e-3)
    assert rate(40) == pytest.approx(1e-5 + (1e-3 - 1e-5) * 0.75)  # a third of the cosine: (1 + cos 60°) / 2
    assert rate(55) == pytest.approx(1e-5 + (1e-3 - 1e-5) * 0.5)
    assert rate(100) == pytest.approx(1e-5)
    assert all(rate(step) > rate(step + 1) for step in range(10, 100))


def test_schedule_without_warmup_starts_at_the_peak() -> None:
    assert schedule_factor(0, 1, warmup_steps(1, 0.05), 0.0, 0.1) == 1.0


def test_layers_nearer_the_input_learn_slower_and_only_matrices_decay() -> None:
    config = tiny_config(layer_decay=0.5, weight_decay=0.05)
    groups = {name: group for group in parameter_groups(TinyMethod(), config) for name in group["names"]}
    rates = {name: group["lr"] for name, group in groups.items()}
    assert rates["model.head.weight"] == pytest.approx(0.05)
    assert rates["model.norm.weight"] == pytest.approx(0.025)
    assert rates["model.embed.weight"] == pytest.approx(0.0125)
    decays = {name: group["weight_decay"] for name, group in groups.items()}
    assert {name for name, decay in decays.items() if decay == 0.05} == {"model.embed.weight", "model.head.weight"}
    assert {name for name, decay in decays.items() if decay == 0} == {
        "model.embed.bias",
        "model.norm.weight",
        "model.norm.bias",
        "model.head.bias",
    }


def test_groups_keep_their_ratio_along_the_schedule() -> None:
    optimiser = build_optimiser(TinyMethod(), tiny_config(layer_decay=0.5))
    set_rates(optimiser, 0.1)
    assert sorted({group["lr"] for group in optimiser.param_groups}) == pytest.approx([0.00125, 0.0025, 0.005])


def test_first_step_matches_adamw_by_hand() -> None:
    method = TinyMethod()
    optimiser = build_optimiser(method, tiny_config(layer_decay=0.5, weight_decay=0.1))
    before = weights(method)
    for parameter in method.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    optimiser.step()
    # Adam's first step is the rate times the gradient's sign; AdamW first shrinks the weight by rate times decay.
    embed = before["model.embed.weight"] * (1 - 0.0125 * 0.1) - 0.0125
    torch.testing.assert_close(method.model.embed.weight.detach(), embed)
    torch.testing.assert_close(method.model.head.bias.detach(), before["model.head.bias"] - 0.05)


def test_frozen_parameters_are_left_out() -> None:
    method = TinyMethod()
    method.model.embed.requires_grad_(False)
    names = {name for group in parameter_groups(method, tiny_config()) for name in group["names"]}
    assert names == {"model.norm.weight", "model.norm.bias", "model.head.weight", "model.head.bias"}


class Forgetful(TinyMethod):
    def roles(self) -> dict[str, Role]:
        roles = super().roles()
        del roles["model.norm.bias"]
        return roles


class Confused(TinyMethod):
    def roles(self) -> dict[str, Role]:
        return {**super().roles(), "model.neck.weight": Role(1, True)}


def test_roles_must_be_complete_and_real() -> None:
    with pytest.raises(VitrailError, match=r"Forgetful.*no role.*model\.norm\.bias"):
        parameter_groups(Forgetful(), tiny_config())
    with pytest.raises(VitrailError, match=r"Confused.*do not exist.*model\.neck\.weight"):
        parameter_groups(Confused(), tiny_config())
    with pytest.raises(VitrailError, match="no trainable parameter"):
        parameter_groups(TinyMethod().requires_grad_(False), tiny_config())


def test_ema_decay_warms_up() -> None:
    assert ema_decay_at(0, 0.999) == pytest.approx(0.1)
    assert ema_decay_at(1, 0.999) == pytest.approx(2 / 11)
    assert ema_decay_at(90, 0.9) == 0.9


def test_ema_equals_a_plain_average_of_weights_and_buffers() -> None:
    torch.manual_seed(0)
    module = Mlp(dropout=0.1)
    module.head.requires_grad_(False)
    ema = Ema(module, 0.5)
    names = ["embed.weight", "embed.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
    plain = {name: weights(module)[name].double() for name in names}
    for update in range(12):
        with torch.no_grad():
            for value in module.state_dict().values():
                value.add_(torch.randn(value.shape).to(value.dtype))
        ema.update()
        decay = min(0.5, (1 + update) / (10 + update))
        plain = {name: decay * plain[name] + (1 - decay) * weights(module)[name].double() for name in names}
    assert set(ema.average) == set(names)
    for name in names:
        torch.testing.assert_close(ema.average[name].double(), plain[name], rtol=1e-5, atol=1e-6)


def test_ema_swaps_in_and_out_exactly_even_when_the_block_fails() -> None:
    module = Mlp()
    ema = Ema(module, 0.9)
    with torch.no_grad():
        module.embed.weight.mul_(1 / 3)
    ema.update()
    own, average = weights(module), {name: value.clone() for name, value in ema.average.items()}
    with pytest.raises(ZeroDivisionError), ema.applied():
        assert all(torch.equal(value, average[name]) for name, value in module.state_dict().items())
        raise ZeroDivisionError
    assert all(torch.equal(value, own[name]) for name, value in module.state_dict().items())
    assert all(torch.equal(value, average[name]) for name, value in ema.average.items())


def test_ema_of_shared_parameters_swaps_exactly() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    module = nn.Sequential(first, second)
    ema = Ema(module, 0.9)
    with torch.no_grad():
        first.weight.add_(1)
    own = weights(module)
    with ema.applied():
        torch.testing.assert_close(first.weight.detach(), own["0.weight"] - 1)
    assert torch.equal(second.weight, own["1.weight"])


@pytest.mark.parametrize(("bf16", "chosen"), [(0.5, "bf16"), (0.9, "fp32"), (4.0, "fp32")])
def test_precision_follows_the_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bf16: float, chosen: str) -> None:
    monkeypatch.setattr(machine, "cache_file", lambda: tmp_path / "machine.json")
    monkeypatch.setattr(machine, "time_product", lambda device, dtype: bf16 if dtype == torch.bfloat16 else 1.0)
    decided = choose_precision("auto", torch.device("cpu"))
    assert decided.name == chosen
    assert f"{bf16 * 1e3:.2f} ms in bf16" in decided.reason and "\n" not in decided.reason


def test_precision_as_asked_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "time_product", lambda device, dtype: pytest.fail("timed"))
    assert choose_precision("bf16", torch.device("cpu")).name == "bf16"
    with choose_precision("bf16", torch.device("cpu")).autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with choose_precision("fp32", torch.device("cpu")).autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_seeds_differ_by_place_and_repeat() -> None:
    places = [
        (seed, step, micro, rank)
        for seed in (0, 1)
        for step in (0, 1, 12)
        for micro in (AFTER_STEP, 0, 1)
        for rank in (0, 1)
    ]
    seeds = [derive_seed(*place) for place in places]
    assert len(set(seeds)) == len(places) and all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [derive_seed(*place) for place in places]
    seed_everything(seeds[0], torch.device("cpu"))
    first = torch.rand(3)
    torch.manual_seed(seeds[0])
    assert torch.equal(first, torch.rand(3))


def test_unusable_device_is_refused() -> None:
    for name in ("cuda:99", "abacus", "meta"):
        with pytest.raises(VitrailError, match=name):
            resolve_device(name, World())
    assert resolve_device("cpu", World()) == torch.device("cpu")
