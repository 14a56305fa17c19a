"""Two processes over gloo that run the same function, for methods that talk to each other while they train."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOAD = ["torch", "vitrail.methods", "vitrail.models"]
"""Imported once by the server that the processes are forked from."""


def run_ranks(work: Callable[[int, int], Any], out: Path, ranks: int = 2) -> list[Any]:
    """What ``work(rank, ranks)`` returned in each process.

    Args:
        work: importable by name: the processes are fresh ones.
        out: an empty folder.
        ranks: how many processes.
    """
    out.mkdir(parents=True, exist_ok=True)
    # Not forked from here: the libraries that other tests have loaded by now may have threads, and not survive that.
    mp.get_context("forkserver").set_forkserver_preload(PRELOAD)
    mp.start_processes(_enter, (work, str(out), ranks), nprocs=ranks, start_method="forkserver")
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def _enter(rank: int, work: Callable[[int, int], Any], out: str, ranks: int) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{out}/store", rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
    )
    torch.save(work(rank, ranks), Path(out) / f"{rank}.pt")
    dist.destroy_process_group()
