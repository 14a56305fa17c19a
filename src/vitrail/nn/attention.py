"""Multi-head attention: the one place where queries meet keys.

The forward pass never builds the attention matrix when the fused kernel does the work. Whoever wants to see weights
asks :meth:`~Mixer.weights` for the rows of interest, which are computed from the same projections.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitrail.nn.context import NO_CONTEXT, Context
from vitrail.nn.linear import third_of
from vitrail.nn.mixer import Mixer
from vitrail.nn.rotary import rotate, rotate_rows
from vitrail.nn.tokens import Tokens

Heads = Float[Tensor, "b heads n head_dim"]
Keys = Float[Tensor, "b heads m head_dim"]
Mask = Float[Tensor, "masks #heads #q #k"] | Bool[Tensor, "masks #heads #q #k"]
"""As many as there are pictures, one for all, or some that repeat (see :class:`~vitrail.nn.context.Context`)."""
WholeMask = Float[Tensor, "#b #heads #q #k"] | Bool[Tensor, "#b #heads #q #k"]
"""One for every picture, or one for all."""
Rows = Int[Tensor, " r"]
"""Places in the sequence of the queries that are wanted."""

Kernel = Literal["auto", "fused", "plain", "blocks"]
Way = Callable[[Tensor, Tensor, Tensor, Mask | None], Tensor]
"""Queries, keys, values and mask into the weighted mean of the values, ``(B, heads, N, head_dim)``."""
_kernel: ContextVar[Kernel | Way] = ContextVar("attention kernel", default="auto")

PLAIN_BELOW = 1000
"""Keys below which training on a CPU is quicker with plain products: the fused kernel's CPU backward is slow."""

QUERIES = 2
"""The dimension of queries in ``(B, heads, N, head_dim)``."""

BLOCK = 2**20
"""Scores that are worked on at once in blocks: 2 MiB in bf16, which the cores' caches hold."""


@contextmanager
def attention_kernel(kernel: Kernel | Way) -> Iterator[None]:
    """Inside the ``with`` block, attention is computed in one way wherever it runs.

    Args:
        kernel: ``"fused"`` never builds the matrix of weights, ``"plain"`` builds all of it, ``"blocks"`` a part at a
            time that fits into a CPU's cache; ``"auto"`` chooses the quickest of them. Or a function that does it,
            wherever weights are not dropped.
    """
    before = _kernel.set(kernel)
    try:
        yield
    finally:
        _kernel.reset(before)


def attention_weights(
    query: Float[Tensor, "b heads q d"], key: Float[Tensor, "b heads k d"], mask: Mask | None = None
) -> Float[Tensor, "b heads q k"]:
    """softmax(QKᵀ / √d + mask), rows summing to one (Vaswani et al. 2017, equation 1)."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    # The kernel accumulates in float32 whatever the type; autocast would only add a copy up and a copy down.
    with torch.autocast(scores.device.type, enabled=False):
        return scores.softmax(dim=-1)


def attend(
    query: Float[Tensor, "b heads q d"],
    key: Float[Tensor, "b heads k d"],
    value: Float[Tensor, "b heads k d"],
    mask: Mask | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "b heads q d"]:
    """Weighted mean of the values, by the kernel that is quickest for where and what this is.

    The fused kernel; on a CPU plain products when training short sequences, and plain products in blocks when not
    training. All give the same numbers to rounding, where a query has a key to look at.
    """
    kernel = _kernel.get()
    if callable(kernel):
        if not dropout:
            return kernel(query, key, value, mask)
        kernel = "auto"
    whole = mask_of_all(mask, query.shape[0])
    if kernel == "auto":
        kernel = _quickest(query, key)
    if kernel == "fused":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=whole, dropout_p=dropout)
    key = _centred(key)
    if kernel == "blocks" and not dropout:
        return _in_blocks(query, key, value, whole)
    return F.dropout(attention_weights(query, key, whole), dropout) @ value


def _centred(key: Keys) -> Keys:
    """Keys without their mean where scores are rounded to half precision; the weights are the same.

    A vector that all keys share adds the same to all scores of a query, which softmax ignores, but large scores round
    coarsely. Without it the features of DINOv2 ViT-S in bf16 are off by 0.7 % instead of 1.2 %, as with the fused
    kernel, which keeps its scores in float32.
    """
    if key.dtype == torch.float32 and not torch.is_autocast_enabled(key.device.type):
        return key
    # Softmax passes no gradient on to what all keys share, so the way back through the mean would carry zeros.
    return key - key.detach().mean(dim=-2, keepdim=True)


def _in_blocks(query: Tensor, key: Tensor, value: Tensor, mask: WholeMask | None) -> Tensor:
    """Plain products, on so few pictures, heads or queries at a time that their scores stay in the cache.

    Twice as quick as the fused kernel in bf16 from 197 to 1,370 tokens, and as frugal with memory (measured on 2 cores
    with AVX512-BF16).
    """
    scores = query.shape[:-1].numel() * key.shape[-2]
    if scores <= BLOCK or query.shape[:-1].numel() == 1:
        return attention_weights(query, key, mask) @ value
    dim = next(dim for dim, size in enumerate(query.shape[:-1]) if size > 1)
    step = max(1, query.shape[dim] * BLOCK // scores)
    parts = []
    for start in range(0, query.shape[dim], step):

        def part(tensor: Tensor, start: int = start) -> Tensor:
            return tensor.narrow(dim, start, min(step, tensor.shape[dim] - start))

        its_mask = mask if mask is None or mask.shape[dim] == 1 else part(mask)
        shared = dim == QUERIES
        parts.append(_in_blocks(part(query), key if shared else part(key), value if shared else part(value), its_mask))
    return torch.cat(parts, dim)


def add_masks(bias: Float[Tensor, "#b #heads #q #k"], mask: Mask | None) -> Float[Tensor, "#b2 #heads2 #q2 #k2"]:
    """A bias of the scores together with a mask of either kind."""
    if mask is None:
        return bias
    return bias.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else bias + mask


def mask_of_all(mask: Mask | None, batch: int) -> WholeMask | None:
    """A mask whose first dimension divides the batch, repeated to the size of it; one that broadcasts stays."""
    if mask is None or mask.shape[0] == 1:
        return mask
    # No copy where nothing is repeated, and no branch on the batch, which an exported graph leaves open.
    return mask.expand(batch // mask.shape[0], *mask.shape).flatten(0, 1)


def _quickest(query: Tensor, key: Tensor) -> Kernel:
    # A graph would have to spell out every block; compilers have ways of their own.
    if query.device.type != "cpu" or torch.compiler.is_compiling():
        return "fused"
    if torch.is_grad_enabled() and query.requires_grad:
        return "plain" if key.shape[-2] < PLAIN_BELOW else "fused"
    return "blocks"


def rows_of_mask(mask: Mask | None, rows: Rows | None) -> Tensor | None:
    """What a mask over all queries says of chosen ones."""
    return mask if mask is None or rows is None or mask.shape[-2] == 1 else mask[:, :, rows]


class MultiHeadAttention(Mixer):
    """Attention of several heads, scaled by 1/√d; where queries, keys and values come from is the subclass's business.

    Args:
        dim: width of what comes out.
        inner: width of all heads together.
        num_heads: heads, each ``inner / num_heads`` wide.
        attention_dropout: on the weights, while training.
        dropout: on the output, while training.
    """

    def __init__(
        self, dim: int, inner: int, num_heads: int, attention_dropout: float = 0.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if inner % num_heads:
            raise ValueError(f"embed_dim {inner} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.proj = nn.Linear(inner, dim)
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def queries(self, tokens: Tokens, context: Context, rows: Rows | None = None) -> Heads:
        """Queries of every head, ``(B, heads, N, head_dim)``, or of chosen rows alone."""

    @abstractmethod
    def keys(self, tokens: Tokens, context: Context) -> Keys:
        """Keys of every head, ``(B, heads, M, head_dim)``."""

    @abstractmethod
    def values(self, tokens: Tokens, context: Context) -> Keys:
        """Values of every head, ``(B, heads, M, head_dim)``."""

    @abstractmethod
    def mask(self, query: Heads, tokens: Tokens, context: Context, rows: Rows | None = None) -> Mask | None:
        """What is added to the scores of all queries or of chosen rows, or where they may look."""

    def project(self, tokens: Tokens, context: Context) -> tuple[Heads, Keys, Keys]:
        """:meth:`queries`, :meth:`keys` and :meth:`values`."""
        return self.queries(tokens, context), self.keys(tokens, context), self.values(tokens, context)

    def split(self, values: Float[Tensor, "b n inner"]) -> Heads:
        """The heads apart."""
        return values.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, tokens: Tokens, context: Context = NO_CONTEXT) -> Float[Tensor, "b wanted dim"]:
        """The mix of all that it can see, for every token that is wanted."""
        return self.join(*self.project(tokens, context), tokens, context)

    def join(
        self, query: Heads, key: Keys, value: Keys, tokens: Tokens, context: Context
    ) -> Float[Tensor, "b wanted dim"]:
        """The heads' answers to what :meth:`project` gave, put together."""
        dropout = self.attention_dropout if self.training else 0.0
        rows = None
        if context.wanted is not None:
            query, rows = query[:, :, : context.wanted], torch.arange(context.wanted, device=query.device)
        mixed = attend(query, key, value, self.mask(query, tokens, context, rows), dropout)
        return self.dropout(self.proj(mixed.transpose(1, 2).flatten(2)))

    def weights(
        self, tokens: Tokens, context: Context = NO_CONTEXT, queries: Int[Tensor, " q"] | None = None
    ) -> Float[Tensor, "b heads q m"]:
        """The attention weights of chosen rows, in float32, from the tokens that :meth:`forward` is given.

        Nothing is computed for other queries, and no values.
        """
        query, key = self.queries(tokens, context, queries), self.keys(tokens, context)
        mask = mask_of_all(self.mask(query, tokens, context, queries), query.shape[0])
        with torch.autocast(query.device.type, enabled=False):
            return attention_weights(query.float(), key.float(), mask)


class Attention(MultiHeadAttention):
    """Self-attention with one joint projection.

    Args:
        dim: width of a token; ``num_heads`` divides it.
        num_heads: heads, each ``dim / num_heads`` wide.
        qkv: makes the joint projection of queries, keys and values, from and to a given width.
        qk_norm: makes the norm of each head's queries and of its keys (ViT-22B); None for none.
        position_bias: called with queries, tokens and the places of the queries (None for all), gives what is added to
            the scores: relative positions.
        attention_dropout: on the weights, while training.
        dropout: on the output, while training.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv: Callable[[int, int], nn.Module] = nn.Linear,
        qk_norm: Callable[[int], nn.Module] | None = None,
        position_bias: nn.Module | None = None,
        attention_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, dim, num_heads, attention_dropout, dropout)
        self.qkv = qkv(dim, 3 * dim)
        self.q_norm = qk_norm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm = qk_norm(dim // num_heads) if qk_norm else nn.Identity()
        self.position_bias = position_bias

    def project(self, tokens: Tokens, context: Context) -> tuple[Heads, Heads, Heads]:
        """All three by one product, ``(B, heads, N, dim / heads)`` each."""
        # Taken apart as the product leaves them, so that gradients are put together there without another copy.
        qkv = self.qkv(tokens.values).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        query, key, value = (heads.transpose(1, 2) for heads in qkv)
        query, key = self.q_norm(query), self.k_norm(key)
        if context.rotary is not None:
            query, key = (rotate(heads, context.rotary, tokens.prefix, tokens.keep) for heads in (query, key))
        return query, key, value

    def queries(self, tokens: Tokens, context: Context, rows: Rows | None = None) -> Heads:
        """Queries of every head, turned by their places where there are angles."""
        values = tokens.values if rows is None else tokens.values[:, rows]
        query = self.q_norm(self.split(third_of(self.qkv, values, 0)))
        return query if context.rotary is None else rotate_rows(query, context.rotary, tokens.prefix, tokens.keep, rows)

    def keys(self, tokens: Tokens, context: Context) -> Heads:
        """Keys of every head, turned by their places where there are angles."""
        key = self.k_norm(self.split(third_of(self.qkv, tokens.values, 1)))
        return key if context.rotary is None else rotate(key, context.rotary, tokens.prefix, tokens.keep)

    def values(self, tokens: Tokens, context: Context) -> Heads:
        """Values of every head."""
        return self.split(third_of(self.qkv, tokens.values, 2))

    def mask(self, query: Heads, tokens: Tokens, context: Context, rows: Rows | None = None) -> Mask | None:
        """The context's mask and the relative positions, together."""
        mask = rows_of_mask(context.mask, rows)
        return mask if self.position_bias is None else add_masks(self.position_bias(query, tokens, rows), mask)
