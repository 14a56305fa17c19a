"""Sums, means and joins over the processes that train together; with one process each is the identity.

The process group is the one that the engine has joined: gloo for tensors on the CPU, NCCL on CUDA. Every process must
call these in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def rank_count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of every process's ``value``, of the same shape on all; no gradient passes."""
    value = value.detach()
    if rank_count() == 1:
        return value
    total = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of every process's ``value``, of the same shape on all; no gradient passes."""
    return sum_over_ranks(value) / rank_count()


def gather_with_gradient(rows: Float[Tensor, "b ..."]) -> Float[Tensor, "all ..."]:
    """The rows of all processes, in order of rank, through which gradients find their way back to their owners.

    Each process receives, for its own rows, the sum of the gradients of all processes' losses. As the gradients of the
    weights are averaged over processes, the outcome is the gradient of the mean of these losses.

    Args:
        rows: this process's; their number may differ from that of the others (a broken picture was left out).
    """
    return rows if rank_count() == 1 else _Gather.apply(rows)  # type: ignore[return-value]


def first_row(rows: int, device: torch.device) -> int:
    """Where this process's rows begin among those of :func:`gather_with_gradient`.

    Args:
        rows: how many this process has.
        device: one that the process group can talk from.
    """
    return 0 if rank_count() == 1 else sum(_counts(rows, device)[: dist.get_rank()])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = _counts(len(rows), rows.device)
        # Every process sends equally much: fewer rows are filled up.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        ctx.begin, ctx.count = sum(counts[: dist.get_rank()]), len(rows)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = sum_over_ranks(gradients[0])
        return total[ctx.begin : ctx.begin + ctx.count]


def _counts(rows: int, device: torch.device) -> list[int]:
    mine = torch.tensor([rows], device=device)
    counts = [torch.empty_like(mine) for _ in range(rank_count())]
    dist.all_gather(counts, mine)
    return [int(count) for count in counts]
