"""DINOv2: learning robust visual features without supervision (Oquab et al. 2023).

DINO on class tokens, iBOT on masked patches, KoLeo against crowding. Section 4 of the paper, and where it is here:

| in the paper | here |
|---|---|
| image-level objective (DINO, Caron et al. 2021) | :meth:`DINOv2.forward`, :mod:`vitrail.methods.momentum` |
| patch-level objective (iBOT, Zhou et al. 2022) | :func:`masked_patch_loss`, masks by :func:`draw_mask` |
| untying head weights between both objectives | ``student_head`` and ``student_patch_head`` |
| Sinkhorn-Knopp centring (Caron et al. 2020) | :func:`sinkhorn_knopp` |
| KoLeo regulariser (Sablayrolles et al. 2019) | :func:`koleo` |
| adapting the resolution | a second run from the first one, see below |
| registers (Darcet et al. 2024) | the model's: ``vit_…_reg4_dinov2``, or ``registers=4`` |

The last phase at high resolution is a run of its own: ``--model OUT --pretrained --image-size 518 --method-options
heads=OUT`` begins from the weights and the heads of the run in OUT. Continuing from public weights begins with fresh
heads, since the public ones were left behind; their first gradients are noise and would spoil the backbone, so
``freeze_backbone`` lets the heads learn alone at first and ``head_gap`` keeps the backbone's rate below theirs.

The official program differs in these: its weight decay climbs during training, the patch embedding has a rate of its
own, stochastic depth has one rate in all blocks (``drop_path_uniform``; here it grows with the depth), and its masks
are dealt out over a batch: exactly ``mask_chance`` of the global views, with shares spread evenly over ``mask_ratio``
(here each view draws both, so that they depend on seed, epoch and picture alone). KoLeo looks for neighbours among the
pictures of all processes, there among those of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitrail.contracts import Batch, Method, Progress, Role, VitrailError
from vitrail.data.views import LOCAL_VIEWS, MASKS, SECOND_VIEW
from vitrail.methods.momentum import (
    TeacherOptions,
    batch_entropy,
    cross_view_loss,
    follow,
    frozen_copy,
    mean_entropy,
    momentum_at,
)
from vitrail.methods.ranks import first_row, gather_with_gradient, sum_over_ranks
from vitrail.models.plain import Plain, require_every_patch
from vitrail.nn.block_mask import block_mask
from vitrail.nn.tokens import Grid


@dataclass(frozen=True)
class DINOv2Options(TeacherOptions):
    """The numbers of DINOv2; the defaults are those of the paper's appendix B.

    Attributes:
        global_scale, local_scale: the areas of the views are smaller than DINO's.
        teacher_temperature_warmup, momentum: differ from DINO's too.
        sinkhorn_rounds: iterations of Sinkhorn-Knopp.
        mask_chance: share of the global views that have masked patches.
        mask_ratio: smallest and largest share of the patches that are masked in such a view.
        ibot: weight of the loss on masked patches.
        koleo: weight of the KoLeo regulariser, on each global view.
    """

    global_scale: tuple[float, float] = (0.32, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.32)
    teacher_temperature_warmup: float = 0.3
    momentum: float = 0.992
    sinkhorn_rounds: int = 3
    mask_chance: float = 0.5
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    ibot: float = 1.0
    koleo: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_shares("mask_chance")
        if not 0.0 <= self.mask_ratio[0] <= self.mask_ratio[1] <= 1.0:
            raise VitrailError(f"mask_ratio must be 0 <= low <= high <= 1, not {self.mask_ratio}")


def draw_mask(grid: Grid, options: DINOv2Options) -> Bool[Tensor, " n"]:
    """The mask of one global view: blocks over a random share of its patches, or none (iBOT, appendix on masking)."""
    chance, share = torch.rand(2).tolist()
    low, high = options.mask_ratio
    wanted = int(grid[0] * grid[1] * (low + share * (high - low))) if chance < options.mask_chance else 0
    return block_mask(1, grid, wanted)[0]


class DINOv2(Method):
    """Trains a Vision Transformer by agreement between views and on masked patches; the teacher is what is kept.

    Logged besides the loss: its parts ``dino``, ``ibot`` and ``koleo``; ``teacher_entropy``, ``kl`` and
    ``batch_entropy`` of the class tokens as in DINO.

    Args:
        model: where the student and the teacher begin, with a class token and a mask token; its classifier is taken
            away.
        options: the numbers.

    Raises:
        VitrailError: a model without one of these tokens, or one that leaves out patches.
    """

    def __init__(self, model: Plain[Any], options: DINOv2Options) -> None:
        super().__init__()
        if model.cls_token is None or model.mask_token is None:
            raise VitrailError("DINOv2 needs class_token=True and mask_token=True (--model-options mask_token=true)")
        require_every_patch(model.config)
        model.reset_classifier(0)
        self.options = options
        self.student = model
        self.student_head = options.make_head(model.config.embed_dim)
        self.student_patch_head = options.make_head(model.config.embed_dim)
        self.teacher = frozen_copy(self.student)
        self.teacher_head = frozen_copy(self.student_head)
        self.teacher_patch_head = frozen_copy(self.student_patch_head)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The three losses; masked patches are those of the global views."""
        options, count = self.options, len(batch)
        whole = torch.cat([batch.images, batch.extras[SECOND_VIEW]])
        masks = batch.extras[MASKS].transpose(0, 1).flatten(0, 1)
        local = batch.extras.get(LOCAL_VIEWS, batch.images.new_empty(count, 0))
        class_targets, patch_targets = self._targets(whole, masks, progress)

        learns = progress.fraction >= options.freeze_backbone
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            tokens = self.student.encode(self.student.embed(whole, masks))
            classes, patches = tokens.values[:, 0], tokens.patches[masks]
            views = [classes]
            if local.shape[1]:
                views.append(self.student.leading(local.flatten(0, 1), 1).values[:, 0])
        learn_last = progress.epoch >= options.freeze_last_layer
        said = self._say(self.student_head(torch.cat(views), learn_last))
        said_whole, said_local = said[: 2 * count], said[2 * count :]
        dino = cross_view_loss(
            class_targets, said_whole.unflatten(0, (2, count)), said_local.unflatten(0, (count, local.shape[1]))
        )
        ibot = masked_patch_loss(patch_targets, self._say(self.student_patch_head(patches, learn_last)), masks)
        spread = koleo(classes[:count]) + koleo(classes[count:])
        entropy = mean_entropy(class_targets)
        return {
            "loss": dino + options.ibot * ibot + options.koleo * spread,
            "dino": dino.detach(),
            "ibot": ibot.detach(),
            "koleo": spread.detach(),
            "teacher_entropy": entropy,
            "kl": dino.detach() - entropy,
            "batch_entropy": batch_entropy(class_targets),
        }

    @torch.no_grad()
    def _targets(
        self, whole: Float[Tensor, "v c h w"], masks: Bool[Tensor, "v n"], progress: Progress
    ) -> tuple[Float[Tensor, "2 b k"], Float[Tensor, "m k"]]:
        """The teacher's probabilities for both global views and for their masked patches, which it sees."""
        options = self.options
        tokens = self.teacher.features(whole)
        temperature = options.temperature(progress)
        classes = self.teacher_head(tokens.values[:, 0]).float() / temperature
        patches = self.teacher_patch_head(tokens.patches[masks]).float() / temperature
        rounds = options.sinkhorn_rounds
        return sinkhorn_knopp(classes, rounds).unflatten(0, (2, -1)), sinkhorn_knopp(patches, rounds)

    def _say(self, scores: Float[Tensor, "v k"]) -> Float[Tensor, "v k"]:
        """The student's log-probabilities."""
        return (scores.float() / self.options.student_temperature).log_softmax(dim=-1)

    def after_step(self, progress: Progress) -> None:
        """The teacher follows the student."""
        momentum = momentum_at(progress, self.options.momentum)
        follow(self.teacher, self.student, momentum)
        follow(self.teacher_head, self.student_head, momentum)
        follow(self.teacher_patch_head, self.student_patch_head, momentum)

    def train(self, mode: bool = True) -> DINOv2:
        """As of any module, but the teacher never drops anything."""
        super().train(mode)
        for part in (self.teacher, self.teacher_head, self.teacher_patch_head):
            part.eval()
        return self

    def roles(self) -> dict[str, Role]:
        """The student's own; its heads behind it, and with them the mask token, which public weights often lack."""
        heads = {"student_head": self.student_head, "student_patch_head": self.student_patch_head}
        roles = self.options.roles(self.student, **heads)
        deepest = max(role.depth for role in roles.values())
        return {**roles, "student.mask_token": Role(deepest, decay=False)}

    def export(self) -> nn.Module:
        """The teacher's backbone."""
        return self.teacher


@torch.no_grad()
def sinkhorn_knopp(scores: Float[Tensor, "b k"], rounds: int = 3) -> Float[Tensor, "b k"]:
    """Probabilities that use all prototypes alike: rows sum to one, columns nearly to ``B / K`` (SwAV, section 3.1).

    B counts the rows of all processes, which may have differently many. Constant factors of the published iteration
    (the total, 1/K, 1/B) cancel and are left out.

    Args:
        scores: already divided by the temperature.
        rounds: how often columns and rows are normalised in turn.
    """
    plan = scores.exp()
    for _ in range(rounds):
        plan = plan / sum_over_ranks(plan.sum(dim=0))
        plan = plan / plan.sum(dim=1, keepdim=True)
    return plan


def masked_patch_loss(
    targets: Float[Tensor, "m k"], said: Float[Tensor, "m k"], masks: Bool[Tensor, "v n"]
) -> Float[Tensor, ""]:
    """Cross-entropy on masked patches, nats: the mean within a view, then over all views, also those without any.

    Args:
        targets: the teacher's probabilities for the masked patches, in the order of ``masks``.
        said: the student's log-probabilities for the same.
        masks: True at the masked patches of every view.
    """
    weights = 1.0 / masks.sum(dim=1, keepdim=True).clamp(min=1).expand_as(masks)[masks]
    return -((targets * said).sum(dim=-1) * weights).sum() / len(masks)


def koleo(features: Float[Tensor, "b d"], eps: float = 1e-8) -> Float[Tensor, ""]:
    """Spreads features over the sphere: the mean of ``-log`` of the distance to the nearest other one.

    Args:
        features: of different pictures, at least two over all processes.
        eps: keeps the logarithm finite.
    """
    with torch.autocast(features.device.type, enabled=False):
        mine = F.normalize(features.float() if features.dtype != torch.float64 else features, dim=-1, eps=eps)
        everyone = gather_with_gradient(mine)
        with torch.no_grad():
            likeness = mine @ everyone.T
            place = torch.arange(len(mine), device=mine.device)
            likeness[place, place + first_row(len(mine), mine.device)] = -2.0
            nearest = likeness.argmax(dim=1)
        return -(F.pairwise_distance(mine, everyone[nearest], eps=eps) + eps).log().mean()
