"""Attention weights by their equations, in float64 and from raw parameters, with none of the package's attention code.

What a layer is given is taken from a float64 copy of the model; that its forward pass is right is shown elsewhere, by
parity with other libraries. All functions here give ``(B, heads, queries, keys)``.
"""

import copy
from collections.abc import Callable
from contextlib import contextmanager
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitrail.nn.attention as attention_module
from vitrail.nn import MultiHeadAttention


def shaken(model: nn.Module, std: float = 0.4) -> nn.Module:
    """Every parameter redrawn, so large that attention is far from uniform and no part is without effect."""
    torch.manual_seed(5)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model.eval()


def inputs_in_double(model: nn.Module, mixers: Callable[[nn.Module], list[nn.Module]], *args: Tensor) -> list[tuple]:
    """Positional arguments of every chosen mixer, and the mixer, in a float64 forward pass."""
    twin = copy.deepcopy(model).double()
    seen: list[tuple] = []
    for mixer in mixers(twin):
        mixer.register_forward_pre_hook(lambda module, given: seen.append((module, *given)))
    with torch.no_grad():
        twin(*(x.double() if x.is_floating_point() else x for x in args))
    return seen


def softmax(scores: Tensor) -> Tensor:
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def heads_of(x: Tensor, heads: int) -> Tensor:
    return torch.stack(x.chunk(heads, dim=-1), dim=1)


def query_and_key(attention: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of a joint projection, with a bias on all three or on all but the keys."""
    named = dict(attention.qkv.named_parameters())
    dim = x.shape[-1]
    query, key = x @ named["weight"][:dim].T, x @ named["weight"][dim : 2 * dim].T
    if "bias" in named:
        query, key = query + named["bias"][:dim], key + named["bias"][dim : 2 * dim]
    if "q_bias" in named:
        query = query + named["q_bias"]
    return heads_of(query, attention.num_heads), heads_of(key, attention.num_heads)


def scores_of(query: Tensor, key: Tensor) -> Tensor:
    return torch.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5


def plain(attention: nn.Module, x: Tensor) -> Tensor:
    return softmax(scores_of(*query_and_key(attention, x)))


def with_table(attention: nn.Module, x: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """BEiT: a row of a table for every distance, three more for the class token."""
    table = attention.position_bias.relative_position_bias_table
    rows, columns = grid
    bias = x.new_zeros(attention.num_heads, x.shape[1], x.shape[1])
    for i, j in product(range(x.shape[1]), repeat=2):
        if i < prefix or j < prefix:
            bias[:, i, j] = table[-1 if i < prefix and j < prefix else -3 if i < prefix else -2]
        else:
            (r, c), (s, d) = divmod(i - prefix, columns), divmod(j - prefix, columns)
            bias[:, i, j] = table[(r - s + rows - 1) * (2 * columns - 1) + c - d + columns - 1]
    return softmax(scores_of(*query_and_key(attention, x)) + bias)


def decomposed(query: Tensor, attention: nn.Module, places: list[tuple[int, int]], grid: tuple[int, int]) -> Tensor:
    """SAM: ``q · (R_h + R_w)`` of every pair."""
    down, across = attention.position_bias.rel_pos_h, attention.position_bias.rel_pos_w
    bias = query.new_zeros(*query.shape[:3], len(places))
    for (i, (r, c)), (j, (s, d)) in product(enumerate(places), repeat=2):
        bias[:, :, i, j] = query[:, :, i] @ (down[r - s + grid[0] - 1] + across[c - d + grid[1] - 1])
    return bias


def whole_decomposed(attention: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    query, key = query_and_key(attention, x)
    places = list(product(range(grid[0]), range(grid[1])))
    return softmax(scores_of(query, key) + decomposed(query, attention, places, grid))


def windowed(mixer: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Swin and SAM: every pair of the filled-up grid by itself; who may not see whom has a weight of zero."""
    attention, window = mixer.mixer, mixer.window
    padded = [-(-size // side) * side for size, side in zip(grid, window, strict=True)]
    shift = [0 if size <= side else s for size, side, s in zip(grid, window, mixer.shift, strict=True)]
    places = list(product(range(padded[0]), range(padded[1])))
    real = [i for i, (r, c) in enumerate(places) if r < grid[0] and c < grid[1]]
    filled = x.new_zeros(len(x), len(places), x.shape[-1])
    filled[:, real] = x
    query, key = query_and_key(attention, filled)
    scores = scores_of(query, key)
    names = dict(attention.position_bias.named_parameters())
    if "rel_pos_h" in names:
        inside = [(r % window[0], c % window[1]) for r, c in places]
        bias = torch.zeros_like(scores)
    for i, j in product(range(len(places)), repeat=2):
        apart, together = [], True
        for axis in (0, 1):
            one, other = ((places[n][axis] - shift[axis]) % padded[axis] for n in (i, j))
            went_around = [places[n][axis] < shift[axis] for n in (i, j)]
            together &= one // window[axis] == other // window[axis] and went_around[0] == went_around[1]
            apart.append(one - other)
        if not together:
            scores[:, :, i, j] = float("-inf")
        elif "rel_pos_h" in names:
            (r, c), (s, d) = inside[i], inside[j]
            table = names["rel_pos_h"][r - s + window[0] - 1] + names["rel_pos_w"][c - d + window[1] - 1]
            bias[:, :, i, j] = query[:, :, i] @ table
        else:
            row = (apart[0] + window[0] - 1) * (2 * window[1] - 1) + apart[1] + window[1] - 1
            scores[:, :, i, j] += names["relative_position_bias_table"][row]
    if "rel_pos_h" in names:
        scores = scores + bias
    return softmax(scores)[:, :, real][..., real]


def separate(attention: nn.Module, query: Tensor, key: Tensor, visible: Tensor | None = None) -> Tensor:
    """DETR: a projection each; positions are already added."""
    linear = {name: (part.weight, part.bias) for name, part in (("q", attention.q), ("k", attention.k))}
    q, k = (x @ linear[n][0].T + linear[n][1] for n, x in (("q", query), ("k", key)))
    scores = scores_of(heads_of(q, attention.num_heads), heads_of(k, attention.num_heads))
    return softmax(scores if visible is None else scores.masked_fill(~visible[:, None, None], float("-inf")))


def rotary(attention: nn.Module, x: Tensor, grid: tuple[int, int], prefix: int, base: float) -> Tensor:
    """DINOv3: channel pairs of queries and keys turned by their row and column between -1 and 1."""
    query, key = query_and_key(attention, x)
    width = query.shape[-1]
    for heads in (query, key):
        for n, (r, c) in enumerate(product(range(grid[0]), range(grid[1]))):
            for i in range(width // 2):
                place = (2 * (r + 0.5) / grid[0] - 1) if i < width // 4 else (2 * (c + 0.5) / grid[1] - 1)
                angle = torch.tensor(2 * torch.pi * place / base ** ((i % (width // 4)) / (width // 4))).double()
                one, two = heads[:, :, prefix + n, i].clone(), heads[:, :, prefix + n, i + width // 2].clone()
                heads[:, :, prefix + n, i] = one * angle.cos() - two * angle.sin()
                heads[:, :, prefix + n, i + width // 2] = two * angle.cos() + one * angle.sin()
    return softmax(scores_of(query, key))


class Kernels:
    """How often the fused kernel ran, and how often weights were built by other code than :meth:`Mixer.weights`."""

    fused = 0
    built_in_forward = 0


@contextmanager
def counted():
    """Inside the ``with`` block, calls are counted."""
    counts, inside = Kernels(), []
    kernel, build, ask = F.scaled_dot_product_attention, attention_module.attention_weights, MultiHeadAttention.weights

    def counting_kernel(*args, **kwargs):
        counts.fused += 1
        return kernel(*args, **kwargs)

    def counting_build(*args, **kwargs):
        counts.built_in_forward += not inside
        return build(*args, **kwargs)

    def asking(*args, **kwargs):
        inside.append(True)
        try:
            return ask(*args, **kwargs)
        finally:
            inside.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", counting_kernel)
        patch.setattr(attention_module, "attention_weights", counting_build)
        patch.setattr(MultiHeadAttention, "weights", asking)
        yield counts
