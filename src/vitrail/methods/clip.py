"""Pictures and their captions in one space: contrastive training with the softmax or with the sigmoid loss.

Where the papers' parts stand:

* CLIP (Radford et al. 2021), figure 3 and section 2.3, the symmetric cross-entropy over a batch:
  :func:`softmax_loss`; section 2.5, the temperature that is learnt as the logarithm of a factor and kept at 100 at
  most: :meth:`CLIP.after_step`.
* SigLIP (Zhai et al. 2023), algorithm 1, a yes or no for each pair, with a bias: :func:`sigmoid_loss`. The paper does
  not bound the temperature.
* Several processes: each compares its own pictures (and, for the softmax, its own captions) with those of all: the
  rows of the table of all pairs that are its own, not the whole table. The mean of these losses, and of their
  gradients, is that of one process with the whole batch.

Which of the two losses, and where temperature and bias start, the model's config says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.contracts import Batch, Method, Progress, Role, VitrailError
from vitrail.data.sources.captions import CAPTION
from vitrail.methods.ranks import first_row, gather_with_gradient
from vitrail.models.clip import DualEncoder


@dataclass(frozen=True)
class CLIPOptions:
    """The numbers of the papers that are not the model's.

    Attributes:
        max_scale: the most that cosines are multiplied by; None for CLIP's 100 with the softmax and, as in SigLIP, no
            limit with the sigmoid.
        tokenizer: file ``tokenizer.json`` (or a folder with it, or with ``vocab.json`` and ``merges.txt``) that makes
            token numbers of captions, for a model that brings none along.
    """

    max_scale: float | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.max_scale is not None and not 1.0 <= self.max_scale < math.inf:
            raise VitrailError(f"max_scale must be a number from 1 on, not {self.max_scale}")


def softmax_loss(
    by_picture: Float[Tensor, "b all"], by_text: Float[Tensor, "b all"], own: Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """The mean of two cross-entropies: which caption is a picture's, and which picture a caption's.

    Args:
        by_picture: logits of this process's pictures with the captions of all.
        by_text: logits of this process's captions with the pictures of all.
        own: the column of each row's own partner.
    """
    return (F.cross_entropy(by_picture, own) + F.cross_entropy(by_text, own)) / 2


def sigmoid_loss(by_picture: Float[Tensor, "b all"], own: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """Yes for a picture's own caption and no for every other, summed over the captions, the mean over the pictures.

    Args:
        by_picture: logits of this process's pictures with the captions of all, the bias included.
        own: the column of each row's own caption.
    """
    # -log σ(-x) = softplus(x) for the others, -log σ(x) = softplus(x) - x for the own.
    matching = by_picture.gather(1, own[:, None]).squeeze(1)
    return (F.softplus(by_picture).sum(dim=1) - matching).mean()


class CLIP(Method):
    """Trains both towers of a pair.

    Args:
        model: image tower, text tower, temperature and, for the sigmoid, bias.
        options: what the model does not say.
    """

    def __init__(self, model: DualEncoder, options: CLIPOptions) -> None:
        super().__init__()
        self.model = model
        limit = 100.0 if options.max_scale is None and model.config.loss == "softmax" else options.max_scale
        self.largest = None if limit is None else math.log(limit)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The loss of this process's pairs among all pairs of the step.

        Also logs the share of pictures whose own caption fits best, the factor and the bias of the logits, and the mean
        cosine of different captions, which tends to 1 when the space collapses.
        """
        if CAPTION not in batch.extras:
            raise VitrailError(f"pictures without captions cannot train a pair: {', '.join(batch.names[:3])}")
        images = self.model.embed_images(batch.images)
        texts = self.model.embed_texts(batch.extras[CAPTION])
        # Half precision would round the logits by as much as pairs differ.
        with torch.autocast(images.device.type, enabled=False):
            return self._losses(images.float(), texts.float())

    def _losses(self, images: Float[Tensor, "b e"], texts: Float[Tensor, "b e"]) -> dict[str, Tensor]:
        count = len(images)
        all_texts = gather_with_gradient(texts)
        own = torch.arange(count, device=images.device) + first_row(count, images.device)
        by_picture = self.model.logits(images, all_texts)
        if self.model.config.loss == "softmax":
            by_text = self.model.logits(texts, gather_with_gradient(images))
            loss = softmax_loss(by_picture, by_text, own)
        else:
            loss = sigmoid_loss(by_picture, own)
        mean = texts.detach().mean(dim=0)
        terms = {
            "loss": loss,
            "retrieved": (by_picture.argmax(dim=1) == own).float().mean(),
            "scale": self.model.logit_scale.exp(),
            # Of all ordered pairs but those of a caption with itself, whose cosine is 1.
            "text_cosine": (mean.square().sum() * count - 1) / max(1, count - 1),
        }
        return terms if self.model.logit_bias is None else {**terms, "bias": self.model.logit_bias.clone()}

    def after_step(self, progress: Progress) -> None:
        """Keep the temperature within its limit."""
        if self.largest is not None:
            self.model.logit_scale.clamp_(max=self.largest)

    def roles(self) -> dict[str, Role]:
        """The pair's own."""
        return {f"model.{name}": role for name, role in self.model.roles().items()}

    def export(self) -> nn.Module:
        """Both towers: what pictures are sorted with among words."""
        return self.model
