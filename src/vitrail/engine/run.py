"""One run from its first or next step to its last: steps, rows, checkpoints, evaluations, in that order."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from vitrail.contracts import Batch, EpochLoader, Method, Progress, VitrailError
from vitrail.durable import clean_partial

from .checkpoint import load_checkpoint, save_checkpoint
from .config import EngineConfig
from .distributed import World
from .ema import Ema
from .faults import Kept, Memory, describe_nonfinite, nonfinite_message, write_nonfinite
from .feed import Feed
from .files import CHECKPOINT, METRICS_TABLE
from .history import Meter, MetricsTable
from .log import Board, Display
from .optimiser import build_optimiser, set_rates
from .precision import Precision, choose_precision
from .randomness import AFTER_STEP, derive_seed, seed_everything
from .resume import GLOBAL_BATCH, Plan, another_division, check_same_run, run_fingerprint
from .schedule import schedule_factor, warmup_steps
from .signals import Abandoned, Interrupted, StopRequest
from .state import capture, restore
from .step import Gradients, Stepper, is_finite, wrap
from .ways import Ways, agree_on_way, use_way


class Run:
    """The state of one :func:`vitrail.engine.fit`; see there for the arguments."""

    def __init__(
        self,
        method: Method,
        loader: EpochLoader,
        config: EngineConfig,
        out: Path,
        *,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None,
        observe: Callable[[nn.Module, Progress], object] | None,
        fingerprint: Mapping[str, str],
        world: World,
        device: torch.device,
        console: Console,
        tensorboard: bool,
        stop: StopRequest,
        ways: Ways,
    ) -> None:
        self._method, self._loader, self._config, self._out = method, loader, config, out
        self._evaluate, self._observe, self._ways = evaluate, observe, ways
        self._world, self._device, self._stop = world, device, stop
        self._plan = Plan.of(loader, config)
        self._fingerprint = run_fingerprint(config, self._plan, world, fingerprint)
        self._display = Display(console, silent=not world.is_main, total_steps=self.total_steps)
        self._epoch = self._step = 0
        self._began = time.monotonic()
        self.metrics: dict[str, float] = {}
        self._meter = Meter()
        world.on_main(self._clean_out)
        stored = self._load()
        self.resumed = stored is not None
        metadata, tensors = stored or ({}, {})
        self.seconds_before: float = metadata.get("seconds", 0.0)
        self._precision = self._agree_on_precision(metadata.get("precision"))
        self._display.message(f"training on {device}, {self._precision.reason}")
        self._way = agree_on_way(ways, metadata.get("way"), device, self._precision.name, world, self._display)
        self._memory = Memory(config, self._precision.name, device, self._fingerprint.get(GLOBAL_BATCH), world.size)
        method.to(device)
        method.train()
        objective = wrap(method, config, world)
        self._optimiser = build_optimiser(method, config)
        self._ema = None if config.ema_decay is None else Ema(method, config.ema_decay)
        if stored is not None:
            restore(tensors, method, self._optimiser, self._ema, metadata["ema_updates"])
            self._epoch, self._step = metadata["epoch"], metadata["step"]
            self.metrics = metadata["metrics"]
            self._meter.load(metadata["meter"])
        self._stepper = Stepper(method, objective, self._optimiser, self._ema, config, world, device, self._precision)
        self._table = MetricsTable(self.table_path)
        if world.is_main:
            self._table.keep(metadata.get("rows", 0))
        events = out / "tensorboard" if tensorboard and world.is_main else None
        self._board = Board(events, self._step)
        self._saved_place = (self._epoch, self._step) if self.resumed else None
        self._saved_at = time.monotonic()

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self._plan.total_steps

    @property
    def checkpoint_path(self) -> Path:
        """The newest checkpoint."""
        return self._out / CHECKPOINT

    @property
    def table_path(self) -> Path:
        """The table of numbers."""
        return self._out / METRICS_TABLE

    def go(self) -> None:
        """Train to the end, or to a stop."""
        self._display.begin(self._step)
        with self._display, use_way(self._ways, self._way):
            while self._epoch < self._config.epochs:
                self._train_epoch()
                self._end_epoch()
            if self._saved_place != (self._epoch, self._step):
                self._save()

    def close(self) -> None:
        """Close what is open; never fails for the state the run is in."""
        self._board.close()

    def export(self) -> nn.Module:
        """A copy of what the method keeps, with the final weights, in eval mode."""
        with nullcontext() if self._ema is None else self._ema.applied():
            return copy.deepcopy(self._method.export()).eval()

    # ── one epoch ────────────────────────────────────────────────────────────────────────────────────────────────

    def _train_epoch(self) -> None:
        done = self._plan.batches_done(self._epoch, self._step)
        if done >= self._plan.batches_per_epoch:
            return
        feed = Feed(self._loader, self._config.accumulate, self._epoch, done)
        try:
            feed.fetch()
            if self._world.max([float(feed.failed)])[0]:
                self._keep_last_step()
            while group := feed.take():
                self._take_step(group, feed)
                self._after_step(feed)
        finally:
            feed.close()

    def _take_step(self, group: list[Batch], feed: Feed) -> None:
        progress = self._plan.progress(self._epoch, self._step)
        factor = self._factor(self._step)
        set_rates(self._optimiser, factor)
        with self._memory.explained(group):
            gradients = self._stepper.gradients(group, progress)
            # While the device still works on the backward pass, the next batches are made ready.
            feed.fetch()
            numbers = gradients.read()
            if self._world.max([float(not is_finite(numbers))])[0]:
                self._refuse(gradients, progress)
            self._stepper.apply(gradients, progress)
        self._step += 1
        self._meter.add(numbers, gradients.images)
        self._display.advance(
            self._step, self._epoch, numbers["loss"], self._config.lr * factor, self._meter.images_per_s()
        )

    def _after_step(self, feed: Feed) -> None:
        """What may follow a step: a row, a checkpoint, a stop, a fault of the loader's. The ranks agree on each."""
        last_of_epoch = self._step == (self._epoch + 1) * self._plan.steps_per_epoch
        if self._step % self._config.log_every == 0 and not last_of_epoch:
            self._write_row(self._meter.images_per_s(), {})
        due = self._world.is_main and self._checkpoint_due()
        exit_code, agreed_due, failed = self._world.max([self._stop.exit_code, float(due), float(feed.failed)])
        if exit_code:
            self._stop_here(int(exit_code))
        if agreed_due:
            self._save()
        if failed:
            self._keep_last_step()

    def _end_epoch(self) -> None:
        # Before the evaluation, whose time is no time of training.
        images_per_s = self._meter.images_per_s()
        metrics: dict[str, float] = {}
        final = self._epoch + 1 == self._config.epochs
        if self._evaluate is not None and (final or (self._epoch + 1) % self._config.eval_every == 0):
            try:
                metrics = self._measure(self._evaluate)
            except Exception:
                # With others, these may be in the midst of their part of it, where they do not listen.
                if self._world.size == 1:
                    self._keep_last_step()
                raise
            self.metrics = metrics
        self._write_row(images_per_s, {f"val_{name}": value for name, value in metrics.items()})
        if metrics:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            self._display.message(f"epoch {self._epoch + 1}/{self._config.epochs}: {shown}")
        self._epoch += 1

    def _measure(self, evaluate: Callable[[nn.Module], Mapping[str, float]]) -> dict[str, float]:
        seed_everything(derive_seed(self._config.seed, self._step, AFTER_STEP, 0), self._device)
        with ExitStack() as stack:
            if self._ema is not None:
                stack.enter_context(self._ema.applied())
            stack.enter_context(_kept_modes(self._method))
            stack.enter_context(torch.no_grad())
            stack.enter_context(self._precision.autocast(self._device))
            model = self._method.export().eval()
            try:
                # Alone, an evaluation may be dropped for a stop; with others, all must finish it together.
                with self._stop.droppable() if self._world.size == 1 else nullcontext():
                    local = {name: float(value) for name, value in evaluate(model).items()}
                    if self._observe is not None:
                        self._observe(model, self._plan.progress(self._epoch + 1, self._step))
            except Abandoned:
                local = None
        if local is None:
            self._stop_here(self._stop.exit_code)
        return self._world.mean(local or {})

    # ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _refuse(self, gradients: Gradients, progress: Progress) -> None:
        bad = self._stepper.non_finite_gradients()
        self._stepper.take_back()
        kept = self._keep_the_step_before()
        ranks = self._world.gather(describe_nonfinite(gradients, bad, self._world.rank))
        path = self._world.on_main(lambda: write_nonfinite(self._out, progress, ranks, kept))
        raise VitrailError(nonfinite_message(path, progress, ranks, kept))

    def _keep_the_step_before(self) -> Kept:
        """Have the run as it was before the step in a checkpoint, so that the same command meets that step again."""
        place = (self._epoch, self._step)
        fault = None
        # Not twice at one place: a run that is started again and again would push out the one before.
        if self._saved_place != place:
            # One answer for all ranks, even if their weights should have drifted apart.
            ill = self._world.on_main(self._stepper.non_finite_weights)
            if ill:
                fault = f"not finite already before this step: {', '.join(ill[:5])}{' …' if len(ill) > 5 else ''}"
            else:
                try:
                    self._save()
                except VitrailError as error:
                    fault = str(error)
        last = None if self._saved_place is None else self._saved_place[1]
        return Kept(self.checkpoint_path, last, fault, self._precision.name, self._way)

    def _keep_last_step(self) -> None:
        """Before a fault goes on its way: what was learnt up to it is in a checkpoint, if there can be one."""
        if self._step and self._saved_place != (self._epoch, self._step):
            try:
                self._save()
            except VitrailError as error:
                self._display.warning(str(error))

    def _stop_here(self, exit_code: int) -> None:
        if self._saved_place != (self._epoch, self._step):
            self._save()
        raise Interrupted(
            f"stopped after step {self._step} of {self.total_steps}; run the same command again to go on from "
            f"{self.checkpoint_path}",
            exit_code,
        )

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _clean_out(self) -> None:
        if stray := clean_partial(self._out):
            self._display.message(f"removed what a killed run left half-written: {', '.join(stray)}")

    def _load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        tensors: dict[str, Tensor] | None = None

        def read() -> dict[str, Any] | None:
            nonlocal tensors
            checkpoint = load_checkpoint(self._out, self._display.warning)
            if checkpoint is None:
                return None
            stored = checkpoint.metadata["fingerprint"]
            check_same_run(stored, self._fingerprint, str(self._out))
            if differs := another_division(stored, self._fingerprint):
                self._display.warning(differs)
            tensors = checkpoint.tensors
            return checkpoint.metadata

        metadata = self._world.on_main(read)
        if metadata is None:
            return None
        self._display.message(
            f"going on from {self.checkpoint_path}: step {metadata['step']} of {self.total_steps}, "
            f"{metadata['epoch']} of {self._config.epochs} epochs done"
        )
        return metadata, self._world.share_tensors(tensors)

    def _save(self) -> None:
        meter = self._meter.dump()
        metadata = {
            "epoch": self._epoch,
            "step": self._step,
            "ema_updates": 0 if self._ema is None else self._ema.updates,
            "precision": self._precision.name,
            "way": self._way,
            "seconds": self.seconds_before + time.monotonic() - self._began,
            "fingerprint": self._fingerprint,
            "metrics": self.metrics,
            "meter": {**meter, "sums": self._world.mean(meter["sums"])},
        }

        def write() -> None:
            rows = self._table.sync()
            tensors = capture(self._method, self._optimiser, self._ema)
            save_checkpoint(self._out, tensors, {**metadata, "rows": rows})

        self._world.on_main(write)
        self._saved_place, self._saved_at = (self._epoch, self._step), time.monotonic()

    def _write_row(self, images_per_s: float, evaluated: Mapping[str, float]) -> None:
        row = {
            "epoch": self._epoch + 1,
            "step": self._step,
            "lr": self._config.lr * self._factor(self._step - 1),
            **self._world.mean(self._meter.means()),
            "images_per_s": images_per_s,
            **evaluated,
        }
        if self._world.is_main:
            self._table.append(row)
            self._board.add(row, self._step)
        self._meter.clear()

    # ── small parts ──────────────────────────────────────────────────────────────────────────────────────────────

    def _factor(self, step: int) -> float:
        config = self._config
        warmup = warmup_steps(self.total_steps, config.warmup_fraction)
        return schedule_factor(step, self.total_steps, warmup, config.warmup_lr / config.lr, config.min_lr / config.lr)

    def _checkpoint_due(self) -> bool:
        steps, seconds = self._config.checkpoint_every_steps, self._config.checkpoint_every_s
        by_steps = steps is not None and self._step % steps == 0
        return by_steps or (seconds is not None and time.monotonic() - self._saved_at >= seconds)

    def _agree_on_precision(self, stored: str | None) -> Precision:
        """A resumed run keeps the precision it began with: a timing may come out differently the second time."""
        if stored == "fp32" or stored == "bf16":
            return Precision(stored, f"{stored}: as in the run so far")
        return self._world.on_main(lambda: choose_precision(self._config.precision, self._device))


@contextmanager
def _kept_modes(module: nn.Module) -> Iterator[None]:
    """Every part is in train or eval mode after the block as it was before it."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
