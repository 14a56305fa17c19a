"""Reductions over processes: the identity alone; sums, means and gradients of the whole with two."""

from pathlib import Path
from typing import Any

import torch

from tests.methods.processes import run_ranks
from vitrail.methods.ranks import first_row, gather_with_gradient, mean_over_ranks, rank_count, sum_over_ranks

ROWS = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
PAIRS = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def energy(rows: torch.Tensor, everyone: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Something in which every row meets every other one."""
    return (pairs * (rows @ everyone.T).square()).sum()


def test_alone_everything_is_itself():
    value = torch.randn(3, requires_grad=True)
    assert rank_count() == 1 and first_row(3, value.device) == 0
    assert torch.equal(sum_over_ranks(value), value) and not sum_over_ranks(value).requires_grad
    assert torch.equal(mean_over_ranks(value), value)
    assert gather_with_gradient(value) is value


def _reduce(rank: int, ranks: int) -> dict[str, Any]:
    # Two rows on the first process, three on the second.
    mine = slice(0, 2) if rank == 0 else slice(2, 5)
    rows = ROWS[mine].clone().requires_grad_()
    everyone = gather_with_gradient(rows)
    energy(rows, everyone, PAIRS[mine]).backward()
    value = torch.tensor([rank + 1.0, 10.0]).expand(2, 2)
    return {
        "sum": sum_over_ranks(value),
        "mean": mean_over_ranks(value),
        "value": value,
        "everyone": everyone.detach(),
        "first": first_row(len(rows), rows.device),
        "gradient": rows.grad,
    }


def test_two_processes_sum_and_gather_with_the_gradient_of_the_whole(tmp_path: Path):
    found = run_ranks(_reduce, tmp_path)
    rows = ROWS.clone().requires_grad_()
    energy(rows, rows, PAIRS).backward()
    torch.testing.assert_close(torch.cat([rank["gradient"] for rank in found]), rows.grad)
    for number, rank in enumerate(found):
        assert torch.equal(rank["everyone"], ROWS) and rank["first"] == 2 * number
        assert rank["sum"].tolist() == [[3.0, 20.0]] * 2 and rank["mean"].tolist() == [[1.5, 10.0]] * 2
        assert rank["value"].tolist() == [[number + 1.0, 10.0]] * 2  # what was given is left alone
