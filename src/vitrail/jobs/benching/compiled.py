"""timm through ``torch.compile``."""

from __future__ import annotations

import torch
from torch._inductor import config as inductor
from torch.nn import functional as F

from vitrail.jobs.benching.case import Case
from vitrail.jobs.benching.timm import VERSIONS, model_of
from vitrail.jobs.benching.torch_work import forward_work, training_work
from vitrail.speed.bench.work import Work

inductor.compile_threads = 1  # Without processes that still compile when the rounds begin.


def inference(case: Case) -> Work:
    """Weights cast to bfloat16 and frozen into the graph, which packs them."""
    inductor.freezing = True
    model = torch.compile(model_of(case).to(case.dtype).eval())
    notes = f"{'bf16 weights' if case.bf16 else 'fp32'}, inductor with freezing"
    return forward_work(model, case.images().to(case.dtype), notes, VERSIONS, compiled=True)


def training(case: Case) -> Work:
    """Autocast and a fused AdamW around a compiled model."""
    model = model_of(case)
    compiled = torch.compile(model)
    images, labels = case.images(), case.labels()
    notes = f"{'bf16 autocast' if case.bf16 else 'fp32'}, inductor"
    return training_work(case, model, lambda: F.cross_entropy(compiled(images).float(), labels), notes, VERSIONS)
