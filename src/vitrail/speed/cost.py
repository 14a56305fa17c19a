"""What a model costs before it is run: parameters, multiply-adds and memory, computed from the architecture.

The forward (and backward) pass is pretended on PyTorch's fake tensors: every operator is seen with its shapes, nothing
is computed. Multiply-adds are those of matrix products, convolutions and the two products of attention; norms,
activations, softmax, biases and sums are not counted, as in timm's and the papers' GMACs.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from vitrail.models import Model, ModelConfig, build
from vitrail.models.backbone import working_out_all
from vitrail.nn.attention import Kernel, attention_kernel
from vitrail.nn.encoder import Encoder
from vitrail.speed.liveness import LiveBytes
from vitrail.speed.parts import REST, parameters_by_part, part_names

Precision = Literal["fp32", "bf16"]
ADAMW_BYTES = 8
"""Two moments in float32 a parameter."""


@dataclass(frozen=True)
class PartCost:
    """One part of a model.

    Attributes:
        name: of the part.
        parameters: numbers in it.
        macs: multiply-adds of a forward pass of one picture.
        training_bytes: activations of the whole batch that wait for the backward pass.
    """

    name: str
    parameters: int
    macs: int
    training_bytes: int


@dataclass(frozen=True)
class Memory:
    """Bytes at the highest point of a pass.

    Attributes:
        weights: the model's own, buffers included.
        working: activations, and in training the gradients made so far, as many as are alive together.
        optimiser: AdamW's two moments in training.
    """

    weights: int
    working: int
    optimiser: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.working + self.optimiser


@dataclass(frozen=True)
class Cost:
    """What one model costs at one size and batch.

    Attributes:
        model: its name.
        img_size: ``(height, width)``.
        batch: pictures at once, for the memory.
        precision: of the weights in inference, of the arithmetic in training.
        parameters: all of them; buffers are not counted.
        macs: multiply-adds of one picture's forward pass.
        parts: where they are.
        inference, inference_plain: memory with the fused attention kernel, and with the matrix of weights built.
        training, training_plain, training_checkpointed: the same with AdamW; the last recomputes every block (fused).
    """

    model: str
    img_size: tuple[int, int]
    batch: int
    precision: Precision
    parameters: int
    macs: int
    parts: tuple[PartCost, ...]
    inference: Memory
    inference_plain: Memory
    training: Memory
    training_plain: Memory
    training_checkpointed: Memory

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; every memory with its total."""
        values = asdict(self)
        for name, value in values.items():
            if isinstance(getattr(self, name), Memory):
                value["total"] = getattr(self, name).total
        return values


def cost(
    config: ModelConfig,
    name: str = "",
    img_size: tuple[int, int] | None = None,
    batch: int = 1,
    precision: Precision = "fp32",
) -> Cost:
    """The whole account of a model.

    Args:
        config: the architecture.
        name: what it is called in the account.
        img_size: pixels; the model's own when None.
        batch: pictures at once.
        precision: ``"fp32"``, or ``"bf16"`` (inference with cast weights, training under autocast).

    Raises:
        VitrailError: a size that the model does not take.
    """
    shape = Shape(config, img_size, batch, precision)
    counted = parameters_by_part(shape.abstract)
    arithmetic = _macs_by_part(shape)
    fused, waiting = _training(shape, "fused")
    parts = [part for part in counted if counted[part] or arithmetic[part] or waiting[part]]
    return Cost(
        model=name or type(shape.abstract).__name__,
        img_size=img_size or shape.abstract.img_size,
        batch=batch,
        precision=precision,
        parameters=sum(counted.values()),
        macs=sum(arithmetic.values()),
        parts=tuple(PartCost(part, counted[part], arithmetic[part], waiting[part]) for part in parts),
        inference=_inference(shape, "fused"),
        inference_plain=_inference(shape, "plain"),
        training=fused,
        training_plain=_training(shape, "plain")[0],
        training_checkpointed=_training(shape, "fused", checkpointed)[0],
    )


def macs(config: ModelConfig, img_size: tuple[int, int] | None = None) -> int:
    """Multiply-adds of one picture's features and its answer, as papers count them: every token in every block."""
    return sum(_macs_by_part(Shape(config, img_size, 1, "fp32")).values())


def inference_memory(
    config: ModelConfig,
    img_size: tuple[int, int] | None = None,
    batch: int = 1,
    precision: Precision = "fp32",
    kernel: Kernel = "fused",
) -> Memory:
    """Bytes of a forward pass at its highest point."""
    return _inference(Shape(config, img_size, batch, precision), kernel)


def training_memory(
    config: ModelConfig,
    img_size: tuple[int, int] | None = None,
    batch: int = 1,
    precision: Precision = "fp32",
    kernel: Kernel = "fused",
) -> Memory:
    """Bytes of a training step with AdamW at its highest point."""
    return _training(Shape(config, img_size, batch, precision), kernel)[0]


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Inside the ``with`` block, every block of an encoder is computed again in the backward pass."""
    blocks = [block for stack in model.modules() if isinstance(stack, Encoder) for block in stack]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


# ---------------------------------------------------------------------- pretended runs


class Shape:
    """A model without weights, and how it is to be run: the arguments are those of :func:`cost`."""

    def __init__(self, config: ModelConfig, img_size: tuple[int, int] | None, batch: int, precision: Precision) -> None:
        with torch.device("meta"):
            self.abstract: Model = build(config)
        self.img_size, self.batch, self.precision = img_size, batch, precision

    @contextmanager
    def pretend(self, dtype: torch.dtype) -> Iterator[tuple[Model, tuple[Tensor, ...]]]:
        """Model and inputs as fake tensors, inside a fake mode."""
        model = copy.deepcopy(self.abstract).to(dtype)
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = model.to_empty(device="cpu")
            yield model, model.example_inputs(self.batch, self.img_size)


def _macs_by_part(shape: Shape) -> Counter[str]:
    counts: Counter[str] = Counter()
    with shape.pretend(torch.float32) as (model, inputs), torch.no_grad(), attention_kernel("fused"):
        names = {_path(path): part for path, part in _part_by_path(model).items()}
        with FlopCounterMode(display=False, custom_mapping=ATTENTION_FLOPS) as counter:
            working_out_all(model.eval())(*inputs)
        by_module = {path: sum(ops.values()) for path, ops in counter.get_flop_counts().items() if path != "Global"}
    root = type(model).__name__
    for path, flops in by_module.items():
        macs_inside = flops // (2 * shape.batch)
        counts[names[path.removeprefix(root)]] += macs_inside
        above = _caller(path, by_module)
        if above is not None:
            counts[names[above.removeprefix(root)]] -= macs_inside
    return counts


def _caller(path: str, called: Container[str]) -> str | None:
    """The nearest module around ``path`` that was called itself: a list of modules may only have been gone through."""
    while "." in path:
        path = path.rpartition(".")[0]
        if path in called:
            return path
    return None


def _part_by_path(model: nn.Module) -> dict[str, str]:
    parts = part_names(model)
    return {path: parts[module] for path, module in model.named_modules()}


def _path(path: str) -> str:
    return f".{path}" if path else ""


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    return sdpa_flop_count(query, key, value)


ATTENTION_FLOPS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""The fused kernel's arithmetic, which torch's own table lacks."""


def _inference(shape: Shape, kernel: Kernel) -> Memory:
    dtype = torch.bfloat16 if shape.precision == "bf16" else torch.float32
    with shape.pretend(dtype) as (model, inputs), torch.no_grad(), attention_kernel(kernel):
        weights = _bytes(list(model.parameters()) + list(model.buffers()))
        with LiveBytes([*model.parameters(), *model.buffers()]) as live:
            live.count_inputs(inputs)
            model.eval()(*inputs)
    return Memory(weights, live.peak)


def _training(
    shape: Shape, kernel: Kernel, around: Callable[[nn.Module], Any] | None = None
) -> tuple[Memory, Counter[str]]:
    with shape.pretend(torch.float32) as (model, inputs), attention_kernel(kernel):
        learned = [p for p in model.parameters() if p.requires_grad]
        known = [*model.parameters(), *model.buffers()]
        weights = _bytes(known)
        names = part_names(model)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=shape.precision == "bf16")
        with LiveBytes(known, REST) as live, autocast, (around or _nothing)(model):
            live.count_inputs(inputs)
            with live.naming(names):
                out = model.train()(*inputs)
            waiting = live.by_part.copy()
            loss = torch.stack([leaf.float().sum() for leaf in tree_leaves(out) if _learns(leaf)]).sum()
            del out
            loss.backward()
    optimiser = ADAMW_BYTES * sum(p.numel() for p in learned)
    # The optimiser's step needs all gradients, when no activation is left.
    return Memory(weights, max(live.peak, _bytes(learned)), optimiser), waiting


@contextmanager
def _nothing(model: nn.Module) -> Iterator[None]:
    yield


def _learns(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
