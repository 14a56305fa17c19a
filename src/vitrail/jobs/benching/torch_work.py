"""How every contestant that is a torch module works: a forward pass, or a whole optimiser step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vitrail.jobs.benching.case import Case, as_answer
from vitrail.speed.bench.work import Work


def forward_work(
    call: Callable[[Tensor], Tensor],
    images: Tensor,
    notes: str,
    versions: Mapping[str, str],
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
    compiled: bool = False,
) -> Work:
    """A forward pass without gradients.

    Args:
        call: pictures to what comes out.
        images: in the type that ``call`` takes.
        notes: how it is done.
        versions: of the libraries.
        around: entered around every call: autocast.
        compiled: whether ``call`` is a compiled graph; else it is found out which attention is in effect.
    """
    seen = AttentionInEffect()

    def run() -> Tensor:
        with torch.no_grad() if compiled else torch.inference_mode(), around():
            return call(images)

    def first() -> Any:
        if compiled:
            return as_answer(run())
        # In inference mode attention would be seen whole, and not which kernel does it.
        with seen, torch.no_grad(), around():
            return as_answer(call(images))

    return Work(run, len(images), first, lambda: ", ".join(filter(None, (notes, str(seen)))), versions)


def training_work(
    case: Case, model: nn.Module, loss_of: Callable[[], Tensor], notes: str, versions: Mapping[str, str]
) -> Work:
    """Forward, backward, clipping and a fused AdamW step, as one writes them in plain torch."""
    model.train()
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=1e-5, fused=True)
    seen = AttentionInEffect()

    def backward() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.bf16):
            loss = loss_of()
        loss.backward()

    def run() -> None:
        backward()
        nn.utils.clip_grad_norm_(learnt, 1.0, foreach=False)
        optimiser.step()
        optimiser.zero_grad()

    def first() -> Any:
        with seen:
            backward()
        found = patch_gradient(model)
        optimiser.zero_grad()
        return found

    return Work(run, case.batch_size, first, lambda: ", ".join(filter(None, (notes, str(seen)))), versions)


def patch_gradient(model: nn.Module) -> Any:
    """The gradient of the patch projection: all of the backward pass goes into it, and every library has it."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert first.weight.grad is not None
    return as_answer(first.weight.grad)


class AttentionInEffect(TorchDispatchMode):
    """Watches which kernels run inside the ``with`` block, whatever a library's settings say."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = self.softmax = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator and note it."""
        name = str(func)
        self.fused += name.startswith(("aten._scaled_dot_product_flash", "aten._scaled_dot_product_efficient"))
        self.softmax += name.startswith(("aten._softmax.", "aten.softmax."))
        return func(*args, **(kwargs or {}))

    def __str__(self) -> str:
        """In words; nothing when no attention was seen."""
        kinds = (("fused attention", self.fused), ("plain attention", self.softmax))
        return " and ".join(name for name, count in kinds if count)
