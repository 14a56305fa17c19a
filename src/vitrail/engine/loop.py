"""The training loop: every method, head and task goes through :func:`fit`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from rich.console import Console
from torch import nn

from vitrail.contracts import EpochLoader, Method, Progress, VitrailError

from . import distributed
from .config import EngineConfig
from .console import stderr_console
from .distributed import World
from .lock import sole_trainer
from .run import Run
from .signals import Interrupted, StopRequest
from .ways import TorchAlone, Ways

Evaluate = Callable[[nn.Module], Mapping[str, float]]
Observe = Callable[[nn.Module, Progress], object]


@dataclass(frozen=True)
class FitResult:
    """What a finished run leaves.

    Attributes:
        model: a copy of ``method.export()`` with the final weights (the moving average where it is on), in eval mode.
        metrics: the last evaluation; empty without one.
        steps: optimiser steps of the whole run.
        seconds: wall-clock of this call alone.
        seconds_before: of the calls that this one goes on from, as far as their checkpoints tell.
        resumed: whether this call went on from a checkpoint.
        checkpoint: the final checkpoint.
        history: ``metrics.csv``.
    """

    model: nn.Module
    metrics: Mapping[str, float]
    steps: int
    seconds: float
    seconds_before: float
    resumed: bool
    checkpoint: Path
    history: Path


def fit(
    method: Method,
    loader: EpochLoader,
    config: EngineConfig,
    out: Path,
    *,
    evaluate: Evaluate | None = None,
    observe: Observe | None = None,
    fingerprint: Mapping[str, str] = MappingProxyType({}),
    world: World | None = None,
    console: Console | None = None,
    tensorboard: bool = False,
    ways: Ways | None = None,
) -> FitResult:
    """Train ``method`` on ``loader``; go on by itself where ``out`` holds a checkpoint of the same run.

    A resumed run ends with the weights of an undisturbed one, bit for bit, on the same hardware: the loader is
    stateless, the model's randomness is seeded from (seed, step, batch of the step, rank), and the rest is stored.
    Methods may draw from torch's generators and from ``random``, nowhere else.

    Args:
        method: what is trained; moved to the device, left there with its last weights (not the average).
        loader: batches by epoch and place.
        config: the run.
        out: folder for ``checkpoint.safetensors``, ``metrics.csv``, TensorBoard events and ``nonfinite.json``.
        evaluate: called on every rank with ``method.export()`` in eval mode, without gradients, in the precision of
            the run and with the averaged weights where they are on; its numbers are averaged over the ranks.
        observe: called on every rank after ``evaluate``, with the same model and the place in the run: for what is
            shown over time.
        fingerprint: what else must be the same on resume (model, class list, data), as text. With a
            "global_batch" entry another number of processes may go on with the run, as long as the pictures of a
            step stay the same; without it, the number of processes and ``accumulate`` must stay.
        world: from :func:`vitrail.engine.init`; by default it is called here.
        console: where progress is shown; standard error by default.
        tensorboard: also write TensorBoard events, to ``out/tensorboard``.
        ways: other ways to compute than torch's own; the run keeps to the one that it begins with.

    Returns:
        The trained model and what was measured.

    Raises:
        Interrupted: after SIGTERM, SIGHUP or Ctrl-C, once a checkpoint is written (a second Ctrl-C: at once, without
            one).
        VitrailError: bad input, another process that trains in ``out``, a run there that differs, damaged checkpoints,
            a full disk, a loss that is not finite, memory that runs out, a lost rank; the message says what to do.
            What the loader raises goes on as it is, after a checkpoint of the last whole step.
    """
    began = time.perf_counter()
    if len(loader) < 1:
        raise VitrailError(
            "the loader has no batches: the data are empty, or fewer than one batch with the last dropped"
        )
    world = world or distributed.init()
    device = distributed.resolve_device(config.device, world)
    console = console or stderr_console()
    devices = [device] if device.type == "cuda" else []
    with StopRequest() as stop, torch.random.fork_rng(devices=devices), sole_trainer(out, world):
        try:
            run = Run(
                method,
                loader,
                config,
                out,
                evaluate=evaluate,
                observe=observe,
                fingerprint=fingerprint,
                world=world,
                device=device,
                console=console,
                tensorboard=tensorboard,
                stop=stop,
                ways=ways or TorchAlone(),
            )
            try:
                run.go()
            finally:
                run.close()
        except KeyboardInterrupt:
            raise Interrupted("stopped at once; the last checkpoint is the place to go on from", 130) from None
        return FitResult(
            model=run.export(),
            metrics=run.metrics,
            steps=run.total_steps,
            seconds=time.perf_counter() - began,
            seconds_before=run.seconds_before,
            resumed=run.resumed,
            checkpoint=run.checkpoint_path,
            history=run.table_path,
        )
