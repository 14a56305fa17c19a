"""BEiT: hide blocks of a picture's patches, say which visual token stood in the place of each.

Source: BEiT: BERT Pre-Training of Image Transformers (Bao et al. 2022).

| section of the paper | here |
|---|---|
| 2.1 "Visual Token": codes of a discrete autoencoder that no longer learns | ``self.tokenizer`` |
| 2.3 and algorithm 1: 40 % of the patches masked, block by block | :func:`vitrail.nn.block_mask.block_mask` |
| 2.3 (equation 2): cross-entropy of the masked patches' tokens | :meth:`BEiT.forward` |
| 2.5: one crop at two sizes, for the transformer and for the tokenizer | :class:`TokenView` |
| 2.5: relative positions shared by all layers, a calm start | :class:`vitrail.models.Beit` with ``shared_bias`` |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Batch, Method, Progress, Role, VitrailError
from vitrail.data.finish import Sample
from vitrail.data.undecoded import PartTransform, Undecoded, whole
from vitrail.models.dvae import DiscreteVAE
from vitrail.models.plain import Plain, require_every_patch
from vitrail.nn.block_mask import block_mask
from vitrail.nn.tokens import Grid

MASK = "mask"
"""The extra of a batch that is True at masked patches, ``(B, N)``."""
TOKENIZED = "tokenized"
"""The extra of a batch that the tokenizer reads, where it is another than what the transformer reads."""


@dataclass(frozen=True)
class BEiTOptions:
    """The numbers of the paper.

    Attributes:
        tokenizer: folder of a trained tokenizer (of ``vitrail pretrain --method tokenizer``), or a name of one.
        mask_ratio: share of the patches that are masked (section 2.3).
        least_block: patches of the smallest block; None: 16 of 14×14, and as large a part of other grids.
        aspect: height over width of the flattest block; the steepest is its inverse.
    """

    tokenizer: str = ""
    mask_ratio: float = 0.4
    least_block: int | None = None
    aspect: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_ratio <= 1.0:
            raise VitrailError(f"mask_ratio must be above 0 and at most 1, not {self.mask_ratio}")


class TokenView(PartTransform):
    """A picture's view for the transformer, the same view for the tokenizer, and which patches are masked.

    All three belong to the sample: they depend on seed, epoch and picture alone.

    Args:
        view: from pixels to the transformer's input.
        tokenized: from pixels to the tokenizer's input; it draws the same crop, for it starts from the same random
            state. None where both read the same.
        grid: of the transformer's patches.
        options: of the masks.
    """

    def __init__(
        self,
        view: Callable[[Undecoded], Sample],
        tokenized: Callable[[Undecoded], Sample] | None,
        grid: Grid,
        options: BEiTOptions,
    ) -> None:
        self.view = view
        self.tokenized = tokenized
        self.grid = grid
        self.options = options
        self.count = max(1, round(prod(grid) * options.mask_ratio))

    def __call__(self, picture: Undecoded) -> dict[str, Sample]:
        """``"images"``, :data:`MASK` and, where it differs, :data:`TOKENIZED`."""
        # Two parts would cost more than the whole.
        picture = picture if self.tokenized is None else whole(picture)
        state = torch.get_rng_state()
        sample: dict[str, Sample] = {"images": self.view(picture)}
        if self.tokenized is not None:
            torch.set_rng_state(state)
            sample[TOKENIZED] = self.tokenized(picture)
        options = self.options
        sample[MASK] = block_mask(1, self.grid, self.count, options.least_block, options.aspect)[0]
        return sample


class BEiT(Method):
    """Trains a transformer by what it must know of a picture to tell the visual tokens of masked patches.

    Args:
        model: a transformer with a mask token and the final norm before its pool; any classifier is left out.
        tokenizer: trained; it is frozen here, and not kept.

    Raises:
        VitrailError: a model without mask token, with its norm behind the pool, or that leaves out patches.
    """

    def __init__(self, model: Plain, tokenizer: DiscreteVAE) -> None:
        super().__init__()
        if model.mask_token is None or model.config.pool_norm:
            raise VitrailError(
                "BEiT trains a model with a mask token and a norm on every token: build it with "
                "mask_token=true and pool_norm=false"
            )
        require_every_patch(model.config)
        model.reset_classifier(0)
        self.model = model
        self.tokenizer = tokenizer.requires_grad_(False)
        self.lm_head = nn.Linear(model.config.embed_dim, tokenizer.config.vocab_size)
        nn.init.trunc_normal_(self.lm_head.weight, std=0.02)
        nn.init.zeros_(self.lm_head.bias)

    def forward(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Mean cross-entropy over the masked patches, nats; ``accuracy`` is the share of their tokens told rightly.

        ``token_entropy`` is that of the masked patches' tokens in this batch, nats: what the loss comes to when only
        their frequencies were learnt.
        """
        if MASK not in batch.extras:
            raise VitrailError(f"BEiT needs to know which patches are masked: make batches with {TokenView.__name__}")
        mask = batch.extras[MASK]
        codes = self.tokenizer.codes(batch.extras.get(TOKENIZED, batch.images))
        if codes.shape != mask.shape:
            raise VitrailError(f"{codes.shape[1]} visual tokens do not stand for {mask.shape[1]} patches one by one")
        wanted = codes[mask]
        tokens = self.model.encode(self.model.embed(batch.images, mask=mask))
        # Only masked patches go on: scores of thousands of tokens are the widest thing here.
        scores = self.lm_head(tokens.patches[mask]).float()
        shares = wanted.bincount(minlength=scores.shape[1]).float() / wanted.numel()
        return {
            "loss": F.cross_entropy(scores, wanted),
            "accuracy": (scores.argmax(dim=1) == wanted).float().mean(),
            "token_entropy": torch.special.entr(shares).sum(),
        }

    def roles(self) -> dict[str, Role]:
        """The model's own; the prediction stands behind its last block. The tokenizer has none: it does not learn."""
        roles = {f"model.{name}": role for name, role in self.model.roles().items()}
        last = self.model.taps + 1
        return {**roles, "lm_head.weight": Role(last, decay=True), "lm_head.bias": Role(last, decay=False)}

    def export(self) -> nn.Module:
        """The transformer; it keeps its mask token and shared positions."""
        return self.model


def require_same_grid(patches: Grid, codes: Grid) -> None:
    """Refuse a tokenizer whose codes do not stand for patches one by one.

    Raises:
        VitrailError: with both grids.
    """
    if patches != codes:
        tall, wide = patches
        raise VitrailError(
            f"the model cuts a picture into {tall}×{wide} patches but the tokenizer into {codes[0]}×{codes[1]} codes: "
            "choose img_size and patch_size so that they agree"
        )
