"""AdamW over groups that follow each parameter's role: its depth sets the rate, its kind the weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from vitrail.contracts import Method, Role, VitrailError

from .config import EngineConfig


def trainable(method: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name; a parameter that is shared appears once."""
    return {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}


def parameter_groups(method: Method, config: EngineConfig) -> list[dict[str, Any]]:
    """AdamW's groups for the trainable parameters of ``method``.

    A parameter at depth ``d`` learns at ``lr * layer_decay ** (deepest - d)`` (Clark et al. 2020, ELECTRA; Bao et al.
    2021, BEiT), so that the layers nearer the input get the smaller rate; ``deepest`` is the largest depth among all
    roles. Weight decay applies where ``Role.decay`` is true and nowhere else.

    Returns:
        Groups with ``params``, ``names`` (of the parameters, in order), ``peak_lr``, ``lr`` and ``weight_decay``.

    Raises:
        VitrailError: a trainable parameter has no role, a role names no parameter, or nothing is trainable.
    """
    parameters = trainable(method)
    roles = method.roles()
    _check_roles(method, parameters, roles)
    deepest = max(role.depth for role in roles.values())
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        role = roles[name]
        peak = config.lr * config.layer_decay ** (deepest - role.depth)
        decay = config.weight_decay if role.decay else 0.0
        new = {"params": [], "names": [], "peak_lr": peak, "lr": peak, "weight_decay": decay}
        group = groups.setdefault((role.depth, role.decay), new)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def build_optimiser(method: Method, config: EngineConfig) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019) on :func:`parameter_groups`, fused into one kernel where torch has it."""
    groups = parameter_groups(method, config)
    fusible = all(
        torch.is_floating_point(parameter) and parameter.device.type in ("cpu", "cuda", "mps")
        for group in groups
        for parameter in group["params"]
    )
    return AdamW(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=fusible)


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Give every group ``factor`` times its own peak rate."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"] * factor


def parameter_names(optimiser: torch.optim.Optimizer) -> list[str]:
    """Names of the parameters in the order in which the optimiser's state dict numbers them."""
    return [name for group in optimiser.param_groups for name in group["names"]]


def _check_roles(method: Method, parameters: Mapping[str, nn.Parameter], roles: Mapping[str, Role]) -> None:
    owner = type(method).__name__
    if not parameters:
        raise VitrailError(f"{owner} has no trainable parameter: unfreeze at least the head")
    if homeless := sorted(set(parameters) - set(roles)):
        raise VitrailError(f"{owner}.roles() gives no role to the trainable parameters: {', '.join(homeless)}")
    known = {name for name, _ in method.named_parameters()}
    if unknown := sorted(set(roles) - known):
        raise VitrailError(f"{owner}.roles() names parameters that do not exist: {', '.join(unknown)}")
