"""timm, plain."""

from __future__ import annotations

import timm
import torch
from torch import nn
from torch.nn import functional as F

from vitrail.jobs.benching.case import Case
from vitrail.jobs.benching.torch_work import forward_work, training_work
from vitrail.speed.bench.work import Work

VERSIONS = {"timm": timm.__version__, "torch": torch.__version__}


def model_of(case: Case) -> nn.Module:
    """The model with the case's weights."""
    return timm.create_model(f"local-dir:{case.folder / 'timm'}", pretrained=True)


def inference(case: Case) -> Work:
    """Weights cast to bfloat16, the quicker of its two ways."""
    model = model_of(case).to(case.dtype).eval()
    notes = "bf16 weights" if case.bf16 else "fp32"
    return forward_work(model, case.images().to(case.dtype), notes, VERSIONS)


def training(case: Case) -> Work:
    """Autocast and a fused AdamW."""
    model, images, labels = model_of(case), case.images(), case.labels()
    notes = "bf16 autocast" if case.bf16 else "fp32"
    return training_work(case, model, lambda: F.cross_entropy(model(images).float(), labels), notes, VERSIONS)
