"""The state of a run as flat tensors, and back: method, optimiser, moving average."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitrail.contracts import VitrailError

from .ema import Ema
from .optimiser import parameter_names

_METHOD, _OPTIMISER, _EMA = "method/", "optimiser/", "ema/"


def capture(method: nn.Module, optimiser: Optimizer, ema: Ema | None) -> dict[str, Tensor]:
    """Every tensor that a resumed run needs, on the CPU, contiguous, none sharing memory with another."""
    flat: dict[str, Tensor] = {}
    for name, value in _method_state(method).items():
        flat[_METHOD + name] = value
    names = parameter_names(optimiser)
    for number, slots in optimiser.state_dict()["state"].items():
        for slot, value in slots.items():
            flat[f"{_OPTIMISER}{names[number]}/{slot}"] = torch.as_tensor(value)
    if ema is not None:
        for name, value in ema.average.items():
            flat[_EMA + name] = value
    return _separate(flat)


def restore(
    tensors: Mapping[str, Tensor], method: nn.Module, optimiser: Optimizer, ema: Ema | None, ema_updates: int
) -> None:
    """Put the state of :func:`capture` back. All is checked before anything is changed.

    Raises:
        VitrailError: tensors are missing, left over or of another shape: another model or another config.
    """
    parts = {prefix: _part(tensors, prefix) for prefix in (_METHOD, _OPTIMISER, _EMA)}
    _check("the method", parts[_METHOD], _method_state(method))
    _check("the moving average", parts[_EMA], {} if ema is None else ema.average)
    slots = _optimiser_slots(parts[_OPTIMISER], optimiser)
    method.load_state_dict(parts[_METHOD], strict=True)
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    if ema is not None:
        ema.updates = ema_updates
        for name, value in parts[_EMA].items():
            ema.average[name].copy_(value)


def method_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the method, by its own names, among the tensors of a checkpoint."""
    return _part(tensors, _METHOD)


def _method_state(method: nn.Module) -> dict[str, Tensor]:
    state = method.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise VitrailError(
                f"{type(method).__name__} keeps {name!r} ({type(value).__name__}) in its state; only tensors can be "
                "checkpointed: register it as a buffer"
            )
    return state


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _optimiser_slots(stored: Mapping[str, Tensor], optimiser: Optimizer) -> dict[int, dict[str, Tensor]]:
    number_of = {name: number for number, name in enumerate(parameter_names(optimiser))}
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in stored.items():
        name, _, slot = key.rpartition("/")
        number = number_of.get(name)
        if number is None:
            raise VitrailError(f"the checkpoint has optimiser state for {name!r}, which does not train in this run")
        if value.dim() and value.shape != parameters[number].shape:
            raise VitrailError(
                f"the checkpoint's optimiser state {key!r} is {tuple(value.shape)}, "
                f"the parameter {tuple(parameters[number].shape)}"
            )
        slots.setdefault(number, {})[slot] = value
    return slots


def _check(owner: str, stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    faults = [f"missing {name}" for name in wanted if name not in stored]
    faults += [f"unexpected {name}" for name in stored if name not in wanted]
    faults += [
        f"{name} is {tuple(stored[name].shape)} {stored[name].dtype}, not {tuple(value.shape)} {value.dtype}"
        for name, value in wanted.items()
        if name in stored and (stored[name].shape != value.shape or stored[name].dtype != value.dtype)
    ]
    if faults:
        raise VitrailError(
            f"the checkpoint does not fit {owner}: {'; '.join(faults[:20])}"
            + (f" and {len(faults) - 20} more" if len(faults) > 20 else "")
            + ". Train the same model, or choose another output folder"
        )


def _separate(flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, value in flat.items():
        value = value.detach().to("cpu").contiguous()
        place = value.untyped_storage().data_ptr()
        if place in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        separate[name] = value
    return separate
