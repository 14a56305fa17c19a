"""How long a pass will take on this machine, before the model is run: its operators' work over two measured rates.

The pass is pretended as in :mod:`vitrail.speed.cost`. Each operator takes as long as its multiply-adds at the rate of
one calibration product, and the bytes that it reads and writes at that of one LayerNorm: a roofline (Williams et al.
2009) whose two parts are added up, not overlapped. So small batches pay for reading the weights, and narrow products
for their operands. A LayerNorm and not a copy, since what stands between products computes while it moves: GELU,
softmax and strided copies run at about its rate.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from vitrail.models import ModelConfig
from vitrail.nn.attention import Kernel, attention_kernel
from vitrail.speed.cost import ATTENTION_FLOPS, Precision, Shape
from vitrail.speed.native import native_if_quicker

ROWS, WIDTH, WIDER = 1576, 768, 3072
"""The calibration product: the first layer of ViT-B's MLP, eight pictures at once."""

REPEATS = 7
OPTIMISER_PASSES = 7
"""Float32 numbers that AdamW reads and writes for each parameter: gradient, weight and two moments."""


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second.

    Attributes:
        flops: of a matrix product.
        bytes: read or written by a LayerNorm.
    """

    flops: float
    bytes: float


@dataclass
class Operations:
    """The work of a pass."""

    flops: float = 0.0
    bytes: float = 0.0

    def seconds(self, rates: Rates) -> float:
        """How long it takes."""
        return self.flops / rates.flops + self.bytes / rates.bytes


@dataclass(frozen=True)
class PredictedTime:
    """What a batch will take.

    Attributes:
        model: its name.
        batch: pictures in it.
        inference, training: seconds of a forward pass, and of forward, backward and an AdamW step.
        rates: that this follows from.
    """

    model: str
    batch: int
    inference: float
    training: float
    rates: Rates

    @property
    def inference_rate(self) -> float:
        """Pictures a second."""
        return self.batch / self.inference

    @property
    def training_rate(self) -> float:
        """Pictures a second."""
        return self.batch / self.training


def calibrate(precision: Precision) -> Rates:
    """Measure this machine's processor, for a fraction of a second."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(ROWS, WIDTH, generator=generator).to(dtype)
    weight = torch.randn(WIDER, WIDTH, generator=generator).to(dtype)
    with torch.inference_mode():
        product = _median_seconds(lambda: F.linear(tokens, weight))
        norm = _median_seconds(lambda: F.layer_norm(tokens, (WIDTH,)))
    return Rates(flops=2 * ROWS * WIDTH * WIDER / product, bytes=2 * tokens.numel() * dtype.itemsize / norm)


def predict_time(
    config: ModelConfig,
    rates: Rates,
    name: str = "",
    img_size: tuple[int, int] | None = None,
    batch: int = 1,
    precision: Precision = "fp32",
    attention: Kernel = "plain",
) -> PredictedTime:
    """Seconds of a forward pass and of a training step.

    Args:
        config: the architecture.
        rates: of :func:`calibrate` for the same precision.
        name: what the model is called in the result.
        img_size: ``(height, width)``; the model's own when None.
        batch: pictures at once.
        precision: as for :func:`~vitrail.speed.cost`.
        attention: of inference; ``"fused"`` where scores never reach memory (the native kernels).
    """
    shape = Shape(config, img_size, batch, precision)
    forward, step = inference_operations(shape, attention), training_operations(shape)
    return PredictedTime(name, batch, forward.seconds(rates), step.seconds(rates), rates)


def prepared_attention(precision: Precision) -> Kernel:
    """How a prepared model attends on this machine's processor, for :func:`predict_time`."""
    native = precision == "bf16" and native_if_quicker(torch.device("cpu"))[0] is not None
    return "fused" if native else "plain"


def inference_operations(shape: Shape, attention: Kernel = "plain") -> Operations:
    """The work of a forward pass, attention computed in a way."""
    dtype = torch.bfloat16 if shape.precision == "bf16" else torch.float32
    with shape.pretend(dtype) as (model, inputs), torch.no_grad(), attention_kernel(attention), _Counter() as counter:
        model.eval()(*inputs)
    return counter.done


def training_operations(shape: Shape) -> Operations:
    """The work of forward, backward and an AdamW step."""
    with shape.pretend(torch.float32) as (model, inputs), attention_kernel("plain"):
        autocast: AbstractContextManager[Any] = torch.autocast("cpu", torch.bfloat16, enabled=shape.precision == "bf16")
        with _Counter() as counter:
            with autocast:
                out = model.train()(*inputs)
            leaves = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.requires_grad]
            torch.stack([leaf.float().sum() for leaf in leaves]).sum().backward()
        learnt = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    counter.done.bytes += OPTIMISER_PASSES * torch.float32.itemsize * learnt
    return counter.done


@dataclass
class _Counter(TorchDispatchMode):
    """Adds up what operators do."""

    done: Operations = field(default_factory=Operations)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operator and note its work."""
        out = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = {id(tensor.untyped_storage()) for tensor in read}
        fresh = [tensor for tensor in made if id(tensor.untyped_storage()) not in known]
        packet = func.overloadpacket  # type: ignore[attr-defined]  # an OpOverload
        if packet in ATTENTION_FLOPS:
            self.done.flops += ATTENTION_FLOPS[packet](*(heads.shape for heads in args[:3]))
        elif packet in flop_registry:
            self.done.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        if fresh or str(packet).endswith("_"):
            self.done.bytes += sum(map(_size, [*read, *fresh]))
        return out


def _size(tensor: Tensor) -> int:
    """Bytes of it; what an expanded tensor repeats is read once."""
    numbers = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numbers *= size if stride else 1
    return numbers * tensor.element_size()


def _median_seconds(run: Callable[[], object]) -> float:
    times = []
    for attempt in range(REPEATS + 1):
        started = time.perf_counter()
        run()
        if attempt:
            times.append(time.perf_counter() - started)
    return statistics.median(times)
