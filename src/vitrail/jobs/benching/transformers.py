"""Transformers, plain: with the attention that it chooses itself, or with its eager one."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from vitrail.jobs.benching.case import Case
from vitrail.jobs.benching.torch_work import forward_work, training_work
from vitrail.speed.bench.work import Work

VERSIONS = {"transformers": transformers.__version__, "torch": torch.__version__}


def model_of(case: Case, kind: Any = None, **asked: Any) -> Any:
    """The model with the case's weights."""
    if kind is None:
        kind = transformers.AutoModelForImageClassification if case.num_classes else transformers.AutoModel
    return kind.from_pretrained(case.folder / "transformers", **asked)


def inference(case: Case) -> Work:
    """Weights in bfloat16."""
    model = model_of(case, dtype=case.dtype).eval()

    def call(images: Tensor) -> Tensor:
        found = model(images)
        return found.logits if case.num_classes else found.last_hidden_state[:, 0]

    notes = "bf16 weights" if case.bf16 else "fp32"
    return forward_work(call, case.images().to(case.dtype), notes, VERSIONS)


def training(case: Case) -> Work:
    """Autocast and a fused AdamW."""
    model, images, labels = model_of(case), case.images(), case.labels()

    def loss() -> Tensor:
        return F.cross_entropy(model(images).logits.float(), labels)

    return training_work(case, model, loss, _notes(case), VERSIONS)


def mae(case: Case) -> Work:
    """ViTMAE with the attention that it chooses itself."""
    return _mae(case)


def mae_eager(case: Case) -> Work:
    """ViTMAE with plain products, which on a CPU train short sequences quicker."""
    return _mae(case, attn_implementation="eager")


def _mae(case: Case, **asked: Any) -> Work:
    model = model_of(case, transformers.ViTMAEForPreTraining, norm_pix_loss=True, **asked)
    images = case.images()
    config = model.config
    noise = case.mask_noise((config.image_size // config.patch_size) ** 2)
    return training_work(case, model, lambda: model(images, noise=noise).loss, _notes(case), VERSIONS)


def _notes(case: Case) -> str:
    return "bf16 autocast" if case.bf16 else "fp32"
