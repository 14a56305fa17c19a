"""Distillation of features: a small encoder learns to have a frozen one's tokens. No labels are needed.

Source: AM-RADIO (Ranzinger et al. 2024), with one teacher and linear adapters.

| part of the paper | here |
|---|---|
| adaptor heads into the teacher's space, one for the summary token and one for the patches | the two adapters |
| loss formulation, summary: cosine distance | :meth:`DistillFeatures.forward` |
| loss formulation, patches: 0.9 of cosine distance and 0.1 of smooth L1 | :meth:`DistillFeatures.forward` |
| grids that differ are resampled; here the teacher's to the student's | :func:`patches_on` |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.contracts import Batch, Method, Progress, Role
from vitrail.methods.teacher import Teacher
from vitrail.models.backbone import Backbone
from vitrail.nn.tokens import Grid, Tokens, take_patches


@dataclass(frozen=True)
class DistillFeaturesOptions:
    """The numbers of feature distillation.

    Attributes:
        teacher: name, artefact, run folder or checkpoint of the frozen model.
        teacher_size: side in pixels at which the teacher sees the pictures; None for its own.
        summary_weight, patch_weight: of the class token's and of the patches' term.
        cosine, smooth_l1: of the two parts of the patches' term.
    """

    teacher: str = "vit_small_patch14_dinov2"
    teacher_size: int | None = None
    summary_weight: float = 1.0
    patch_weight: float = 1.0
    cosine: float = 0.9
    smooth_l1: float = 0.1


class DistillFeatures(Method):
    """Trains an encoder to have, through linear adapters, a frozen model's tokens. No labels are needed.

    Args:
        model: the student.
        teacher: what it is to become like.
        options: weights of the terms.
    """

    def __init__(self, model: Backbone, teacher: Teacher, options: DistillFeaturesOptions) -> None:
        super().__init__()
        self.model = model
        self.teacher = teacher
        self.options = options
        width, wanted = token_width(model), token_width(teacher.model)
        self.summary_adapter = nn.Linear(width, wanted)
        self.patch_adapter = nn.Linear(width, wanted)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The weighted sum of the class token's and the patches' distances; also logs both cosines."""
        options = self.options
        targets = self.teacher.features(batch.images)
        tokens = self.model.features(batch.images)
        summary, wanted = self.summary_adapter(summary_of(tokens)).float(), summary_of(targets).float()
        patches, wanted_patches = self.patch_adapter(tokens.patches).float(), patches_on(targets, tokens.grid).float()
        if tokens.keep is not None:
            wanted_patches = take_patches(wanted_patches, tokens.keep)
        summary_cosine = F.cosine_similarity(summary, wanted, dim=-1).mean()
        patch_cosine = F.cosine_similarity(patches, wanted_patches, dim=-1).mean()
        of_patches = options.cosine * (1.0 - patch_cosine)
        of_patches = of_patches + options.smooth_l1 * F.smooth_l1_loss(patches, wanted_patches)
        loss = options.summary_weight * (1.0 - summary_cosine) + options.patch_weight * of_patches
        return {"loss": loss, "summary_cosine": summary_cosine, "patch_cosine": patch_cosine}

    def roles(self) -> dict[str, Role]:
        """The student's own; the adapters stand behind its last block, where a head stands."""
        roles = {f"model.{name}": role for name, role in self.model.roles().items()}
        last = max(role.depth for role in roles.values())
        for name, parameter in self.named_parameters():
            roles.setdefault(name, Role(last, decay=parameter.ndim > 1))
        return roles

    def export(self) -> nn.Module:
        """The student without the adapters."""
        return self.model


def summary_of(tokens: Tokens) -> Float[Tensor, "b d"]:
    """The class token; the mean of the patches where there is none."""
    return tokens.values[:, 0] if tokens.class_token else tokens.patches.mean(dim=1)


def patches_on(tokens: Tokens, grid: Grid) -> Float[Tensor, "b n d"]:
    """The patches resampled to another grid, bilinearly, averaging where the grid gets coarser."""
    if tokens.grid == grid:
        return tokens.patches
    resized = F.interpolate(tokens.feature_map().float(), grid, mode="bilinear", antialias=True, align_corners=False)
    return resized.flatten(2).transpose(1, 2)


@torch.no_grad()
def token_width(model: Backbone) -> int:
    """Width of a model's tokens, found by looking at one."""
    training = model.training
    width = model.eval().features(*model.example_inputs(1)).values.shape[-1]
    model.train(training)
    return width
