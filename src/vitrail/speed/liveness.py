"""How many bytes of tensors are alive, and whose they are: counted while a forward (and backward) pass is pretended."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operators make, from when they are made until nobody holds them any more.

    Under PyTorch's fake tensors nothing is computed or allocated, but shapes, kernels and lifetimes are those of a
    real run. Storages of ``known`` tensors (weights, inputs) are left out.

    Args:
        known: tensors that were there before.
        outside: the part to which belongs what no named module makes.

    Attributes:
        live: bytes now.
        peak: most bytes at any time.
        by_part: bytes now, by the part that made them.
    """

    def __init__(self, known: Sequence[Tensor], outside: str = "") -> None:
        super().__init__()
        self.live = self.peak = 0
        self.by_part: Counter[str] = Counter()
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet(tensor.untyped_storage() for tensor in known)
        self._parts = [outside]

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operator and look at what it made."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return out

    def count_inputs(self, inputs: Sequence[Tensor]) -> None:
        """Let tensors that were made before count from now on."""
        for tensor in inputs:
            self._count(tensor.untyped_storage())

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        part, size = self._parts[-1], storage.nbytes()
        self.live += size
        self.by_part[part] += size
        weakref.finalize(storage, self._forget, part, size)
        self.peak = max(self.peak, self.live)

    def _forget(self, part: str, size: int) -> None:
        self.live -= size
        self.by_part[part] -= size

    @contextmanager
    def naming(self, names: Mapping[nn.Module, str]) -> Iterator[None]:
        """Inside the ``with`` block, what the forward pass of a module makes belongs to the name that it has here."""

        def enter(module: nn.Module, args: Any) -> None:
            self._parts.append(names[module])

        def leave(module: nn.Module, args: Any, out: Any) -> None:
            self._parts.pop()

        handles = [
            handle
            for module in names
            for handle in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
