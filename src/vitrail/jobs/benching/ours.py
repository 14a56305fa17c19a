"""Vitrail as its verbs run it."""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from vitrail.contracts import Batch, Method, Progress
from vitrail.data import Augment, FileSource, Loader, Preprocess, TrainTransform, list_pictures
from vitrail.engine import EngineConfig, Precision, World, build_optimiser
from vitrail.engine.step import Stepper, wrap
from vitrail.heads.pixels import patchify
from vitrail.jobs.benching.case import Case, as_answer
from vitrail.jobs.benching.torch_work import AttentionInEffect, forward_work, patch_gradient, training_work
from vitrail.methods import MAE
from vitrail.methods.classify import Classify
from vitrail.methods.mae import KEEP
from vitrail.models import Backbone, MaskedAutoencoder
from vitrail.nn.attention import Mask, attention_kernel
from vitrail.speed.bench.work import Work
from vitrail.speed.malloc import keep_freed_memory
from vitrail.speed.native import attention_to_learn_with
from vitrail.speed.prepare import prepare

VERSIONS = {"vitrail": version("vitrail"), "torch": torch.__version__}
STEPS = Progress(0, 1, 0, 1)


def inference(case: Case) -> Work:
    """As ``vitrail predict`` and ``embed``: prepared for this machine."""
    keep_freed_memory()
    model = case.ours().eval()
    prepared = prepare(model, torch.device("cpu"), case.precision, case.batch_size)
    return forward_work(prepared, case.images(), prepared.form, VERSIONS)


def reference(case: Case) -> Work:
    """The float32 answer, by the fused kernel, a few pictures at a time."""
    model = case.ours().eval()

    def answer() -> Any:
        with torch.no_grad(), attention_kernel("fused"):
            return as_answer(torch.cat([model(part) for part in case.images().split(8)]))

    return Work(answer, case.batch_size, answer)


def training(case: Case) -> Work:
    """A step of the engine that ``vitrail train`` runs on."""
    model = case.ours()
    assert isinstance(model, Backbone)
    return _step(case, Classify(model), _batch(case, case.labels()))


def mae(case: Case) -> Work:
    """A step of the engine that ``vitrail pretrain --method mae`` runs on."""
    model = case.ours()
    assert isinstance(model, MaskedAutoencoder)
    return _step(case, MAE(model), _batch(case, None, {KEEP: visible(case, model)}))


def all_visible(case: Case) -> Work:
    """The same autoencoder with all patches visible: what it would take if hiding them saved nothing."""
    keep_freed_memory()
    model = case.ours()
    assert isinstance(model, MaskedAutoencoder)
    images, method, attention = case.images(), MAE(model), QuickAttention(case)

    def loss() -> Tensor:
        pixels = method.targets(patchify(images, model.patch))
        with attention.used():
            return (model(images).float() - pixels).square().mean()

    work = training_work(case, method, loss, _number(case), VERSIONS)
    return Work(work.run, work.pictures, None, work.notes, work.versions)


def visible(case: Case, model: MaskedAutoencoder) -> Tensor:
    """The patches that the noise lets the encoder see, ascending."""
    patches = model.grid[0] * model.grid[1]
    keep = int(patches * (1 - model.config.mask_ratio))
    return case.mask_noise(patches).argsort(dim=1)[:, :keep].sort(dim=1).values


def reading(case: Case) -> Work:
    """Training crops as ``vitrail train`` makes them: random crop, mirror image, and normalised as the step does it."""
    keep_freed_memory()
    augment = Augment(randaugment=None, erasing=0.0)
    loader = Loader(
        FileSource(list_pictures(case.folder)),
        TrainTransform(Preprocess(size=case.img_size), augment),
        batch_size=case.batch_size,
        cache=False,
    )
    batches = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())
    return Work(
        lambda: next(batches).to(torch.device("cpu")).images, case.batch_size, None, lambda: "bicubic", VERSIONS
    )


def _step(case: Case, method: Method, batch: Batch) -> Work:
    keep_freed_memory()
    config = EngineConfig(epochs=1, lr=1e-5, precision=case.precision, device="cpu")
    world, device = World(), torch.device("cpu")
    optimiser = build_optimiser(method.train(), config)
    precision = Precision(case.precision, "as asked")
    stepper = Stepper(method, wrap(method, config, world), optimiser, None, config, world, device, precision)
    attention, seen = QuickAttention(case), AttentionInEffect()

    def run() -> None:
        with attention.used():
            stepper.apply(stepper.gradients([batch], STEPS), STEPS)

    def first() -> Any:
        with seen, attention.used():
            stepper.gradients([batch], STEPS)
        return patch_gradient(method)

    # What the kernel leaves to torch is seen there.
    return Work(run, len(batch), first, lambda: f"{_number(case)}, {str(seen) or attention}", VERSIONS)


class QuickAttention:
    """The attention that ``vitrail train`` and ``pretrain`` take here, and whether it was asked.

    Args:
        case: the work; in float32 nothing is changed.
    """

    def __init__(self, case: Case) -> None:
        self.way = attention_to_learn_with(torch.device("cpu"))[0] if case.bf16 else None
        self.asked = 0

    def used(self) -> AbstractContextManager[object]:
        """Inside the ``with`` block it does the work."""
        return nullcontext() if self.way is None else attention_kernel(self._watched)

    def _watched(self, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None) -> Tensor:
        assert self.way is not None
        self.asked += 1
        return self.way(query, key, value, mask)

    def __str__(self) -> str:
        """In words; nothing when it was not asked."""
        return "native attention" if self.asked else ""


def _batch(case: Case, labels: Tensor | None, extras: dict[str, Tensor] | None = None) -> Batch:
    names = tuple(map(str, range(case.batch_size)))
    return Batch(case.images(), labels, torch.arange(case.batch_size), names, extras or {})


def _number(case: Case) -> str:
    return "bf16 autocast" if case.bf16 else "fp32"
