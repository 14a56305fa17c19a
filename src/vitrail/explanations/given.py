"""What every mixer is given in a forward pass: the one hook that recording, recalling and gradients all stand on.

Whoever knows a mixer's tokens and context can ask it for weights at leisure (:meth:`vitrail.nn.Mixer.weights`); the
forward pass itself runs as ever, on the kernel that it would have taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.nn.context import NO_CONTEXT, Context
from vitrail.nn.mixer import Mixer
from vitrail.nn.tokens import Tokens


class Given(NamedTuple):
    """A mixer and the arguments of its forward pass.

    Attributes:
        mixer: who was called.
        tokens: what it mixes (after the block's norm).
        context: its side inputs.
    """

    mixer: Mixer
    tokens: Tokens
    context: Context = NO_CONTEXT

    def exact(self) -> Given:
        """The same without gradient, in the type of the mixer's parameters (autocast may have halved it)."""
        kind = next(self.mixer.parameters()).dtype

        def cast(values: Tensor) -> Tensor:
            return values.detach().to(kind)

        context, memory = self.context, self.context.memory
        if context.positions is not None:
            context = context._replace(positions=cast(context.positions))
        if memory is not None:
            positions = None if memory.positions is None else cast(memory.positions)
            memory = memory._replace(tokens=_cast(memory.tokens, cast), positions=positions)
            context = context._replace(memory=memory)
        return Given(self.mixer, _cast(self.tokens, cast), context)


def _cast(tokens: Tokens, cast: Callable[[Tensor], Tensor]) -> Tokens:
    return tokens.with_values(cast(tokens.values))


See = Callable[[int, Given], None]
"""Called with the number of a layer and what it was given, before the layer runs."""


def attention_layers(model: nn.Module) -> list[Mixer]:
    """The model's mixers in the order they are registered: in a ViT, layer ``i`` is that of block ``i``.

    A mixer inside another one (that of a window) is not counted: the outer one speaks for the whole sequence.
    """
    if isinstance(model, Mixer):
        return [model]
    return [mixer for child in model.children() for mixer in attention_layers(child)]


@contextmanager
def watch(model: nn.Module, see: See, layers: Sequence[int] | None = None) -> Iterator[None]:
    """Inside the ``with`` block, ``see`` is told what the chosen layers are given; nothing is left behind.

    Args:
        model: anything built from mixers.
        see: told of every call of a layer.
        layers: layer numbers, negatives from the end; all of them when None.

    Raises:
        VitrailError: for a layer that does not exist, or a model without attention.
    """
    mixers = attention_layers(model)
    if not mixers:
        raise VitrailError(f"{type(model).__name__} has no attention layers to record")
    chosen = range(len(mixers)) if layers is None else layers
    for layer in chosen:
        if not -len(mixers) <= layer < len(mixers):
            raise VitrailError(f"there is no layer {layer} in a model of {len(mixers)} attention layers")
    handles = [
        mixers[number].register_forward_pre_hook(_hook(number, see), with_kwargs=True)
        for number in sorted({layer % len(mixers) for layer in chosen})
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(number: int, see: See) -> Callable[[Mixer, tuple[Any, ...], dict[str, Any]], None]:
    """The hook of one layer, which puts together the arguments of ``forward`` however they were passed."""

    def hook(module: Mixer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(zip(("tokens", "context"), args, strict=False)) | kwargs
        see(number, Given(module, **named))

    return hook


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside the ``with`` block the model is in evaluation mode; afterwards every part of it is in its own again."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def with_graph() -> Iterator[None]:
    """Inside the ``with`` block a graph is built, whatever the surroundings say (``no_grad``, ``inference_mode``)."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
