"""Recording attention while the fused kernel stays on.

The forward pass runs as ever. Every chosen :class:`~vitrail.nn.Mixer` is asked, for the tokens that it was given, for
the rows that were wanted and for no others: one row per head for the class token, not an N × N matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.explanations.given import Given, attention_layers, watch
from vitrail.nn.tokens import Grid

Query = int | tuple[int, ...]
"""A place in the sequence (0: the class token, if any; negatives from the end), or a patch as ``(row, column)``."""

Fuse = Callable[[Tensor], Tensor]
"""What is kept of the weights of one layer: ``(B, heads, Q, N)`` to ``(B, heads or 1, Q, N)``."""


def every_head(weights: Float[Tensor, "b heads q n"]) -> Float[Tensor, "b heads q n"]:
    """Keep each head by itself."""
    return weights


def mean_of_heads(weights: Float[Tensor, "b heads q n"]) -> Float[Tensor, "b 1 q n"]:
    """Keep the mean over the heads only; enough for rollout, at a fraction of the memory."""
    return weights.mean(dim=1, keepdim=True)


@dataclass(frozen=True)
class LayerAttention:
    """Attention weights of one layer and what is needed to lay them out on the picture.

    Attributes:
        weights: ``(B, heads, Q, N)`` float32 on the CPU; rows sum to one over all N tokens, prefix included.
        queries: ``(Q,)`` int64, the places in the sequence that the rows belong to.
        grid: the patch grid, ``(H, W)``.
        prefix: leading tokens that are no patches.
        keep: ``(B, K)``, which patches were present, or None for all.
        registers: how many of the ``prefix`` tokens are registers.
    """

    weights: Float[Tensor, "b heads q n"]
    queries: Int[Tensor, " q"]
    grid: Grid
    prefix: int
    keep: Int[Tensor, "b k"] | None = None
    registers: int = 0

    @property
    def class_token(self) -> bool:
        """Whether the first token is a class token, as :attr:`vitrail.nn.Tokens.class_token` says."""
        return self.prefix > self.registers

    def maps(self) -> Float[Tensor, "b heads q *grid"]:
        """The patches' weights laid out on the grid; NaN where a patch was not present. Prefix columns are left out."""
        patches = self.weights[..., self.prefix :]
        if self.keep is not None:
            whole = patches.new_full((*patches.shape[:-1], prod(self.grid)), float("nan"))
            places = self.keep[:, None, None].expand_as(patches)
            patches = whole.scatter(-1, places, patches)
        return patches.unflatten(-1, self.grid)

    def row(self, query: Query) -> int:
        """Which of the recorded rows belongs to ``query``.

        Raises:
            VitrailError: if that query was not recorded.
        """
        place = place_of(query, self.grid, self.prefix, self.weights.shape[-1])
        found = (self.queries == place).nonzero()
        if not len(found):
            raise VitrailError(
                f"the attention of query {query} was not recorded: ask for it with record(…, queries=({query},))"
            )
        return int(found[0])


class AttentionRecord:
    """The layers recorded in the latest forward pass, by number; negative numbers count from the last layer.

    Args:
        depth: how many attention layers the model has.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._layers: dict[int, LayerAttention] = {}

    @property
    def layers(self) -> tuple[int, ...]:
        """The numbers of the recorded layers, in order."""
        return tuple(sorted(self._layers))

    def add(self, layer: int, attention: LayerAttention) -> None:
        """Keep the attention of a layer; a second forward pass replaces the first."""
        self._layers[layer] = attention

    def __getitem__(self, layer: int) -> LayerAttention:
        number = layer + self.depth if layer < 0 else layer
        if number not in self._layers:
            recorded = ", ".join(map(str, self.layers)) or "none: run the model inside the with block"
            raise VitrailError(f"layer {layer} of {self.depth} was not recorded; recorded are {recorded}")
        return self._layers[number]

    def maps(self, layer: int = -1) -> Float[Tensor, "b heads q *grid"]:
        """Weights of a layer on the patch grid, ``(B, heads, Q, H, W)``."""
        return self[layer].maps()

    def to_npz(self, path: Path) -> Path:
        """Write everything recorded into a file; see :meth:`write_npz`."""
        with path.open("wb") as file:
            self.write_npz(file)
        return path

    def write_npz(self, file: BinaryIO) -> None:
        """Write everything recorded into an open file, compressed, with no pickled objects.

        The arrays, for layers ``l`` = 00, 01 …:

        =============== ===================== ==================================================================
        ``depth``       int64, scalar         attention layers in the model
        ``layers``      int64 ``(L,)``        numbers of the recorded layers
        ``weights_l``   float32 (B,heads,Q,N) rows of softmax(QKᵀ/√d), prefix tokens first
        ``queries_l``   int64 ``(Q,)``        places in the sequence of the rows
        ``grid_l``      int64 ``(2,)``        patch rows and columns
        ``prefix_l``    int64, scalar         leading tokens that are no patches
        ``registers_l`` int64, scalar         how many of them are registers; none in older files, which lack it
        ``keep_l``      int64 ``(B, K)``      present patches; left out when all are
        =============== ===================== ==================================================================
        """
        arrays: dict[str, Any] = {"depth": np.int64(self.depth), "layers": np.array(self.layers, dtype=np.int64)}
        for layer in self.layers:
            attention = self[layer]
            arrays[f"weights_{layer:02d}"] = attention.weights.numpy()
            arrays[f"queries_{layer:02d}"] = attention.queries.numpy()
            arrays[f"grid_{layer:02d}"] = np.array(attention.grid, dtype=np.int64)
            arrays[f"prefix_{layer:02d}"] = np.int64(attention.prefix)
            arrays[f"registers_{layer:02d}"] = np.int64(attention.registers)
            if attention.keep is not None:
                arrays[f"keep_{layer:02d}"] = attention.keep.numpy()
        np.savez_compressed(file, **arrays)

    @classmethod
    def from_npz(cls, path: Path) -> AttentionRecord:
        """Read what :meth:`to_npz` wrote.

        Raises:
            VitrailError: if the file is no such archive.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return cls._from_arrays(arrays)
        except (KeyError, ValueError, OSError) as error:
            raise VitrailError(f"{path} is not an attention record: {error}; write one with to_npz()") from error

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> AttentionRecord:
        record = cls(int(arrays["depth"]))
        for layer in arrays["layers"].tolist():
            keep = arrays.get(f"keep_{layer:02d}")
            attention = LayerAttention(
                weights=torch.from_numpy(arrays[f"weights_{layer:02d}"]),
                queries=torch.from_numpy(arrays[f"queries_{layer:02d}"]),
                grid=tuple(arrays[f"grid_{layer:02d}"].tolist()),
                prefix=int(arrays[f"prefix_{layer:02d}"]),
                keep=None if keep is None else torch.from_numpy(keep),
                registers=int(arrays.get(f"registers_{layer:02d}", 0)),
            )
            record.add(layer, attention)
        return record


def place_of(query: Query, grid: Grid, prefix: int, length: int) -> int:
    """The place in a sequence of ``length`` tokens of a token number or of a patch ``(row, column)``.

    Raises:
        VitrailError: if there is no such token or patch.
    """
    if isinstance(query, int):
        if not -length <= query < length:
            raise VitrailError(f"there is no token {query} in a sequence of {length}")
        return query % length
    if len(query) != len(grid) or any(not 0 <= place < size for place, size in zip(query, grid, strict=True)):
        raise VitrailError(f"there is no patch {query} on a grid of {' × '.join(map(str, grid))}; rows come first")
    return prefix + int(np.ravel_multi_index(query, grid))


@contextmanager
def record(
    model: nn.Module,
    layers: Sequence[int] | None = None,
    queries: Sequence[Query] | None = (0,),
    fuse: Fuse = every_head,
) -> Iterator[AttentionRecord]:
    """Record attention weights of every forward pass inside the ``with`` block; the latest one is kept.

    The model's outputs and its kernels do not change. Weights are computed in float32, also under autocast, and
    carry no gradient. Extra cost of a layer: one more projection of its keys and of the Q queries, and Q × N weights
    per head.

    Args:
        model: anything built from mixers (:class:`~vitrail.nn.Mixer`).
        layers: layer numbers, negatives from the end; all of them when None.
        queries: whose rows are wanted: tokens by place, patches by ``(row, column)``; None for all N rows, which does
            build N × N matrices.
        fuse: what to keep of the heads: :func:`every_head` or :func:`mean_of_heads`.

    Raises:
        VitrailError: for a layer, token or patch that does not exist, or a model without attention.

    Example::

        with record(model, layers=(-1,)) as attention, torch.no_grad():
            logits = model(images)
        attention.maps(-1)[:, :, 0]  # (B, heads, H, W), what the class token looked at
    """
    result = AttentionRecord(len(attention_layers(model)))

    def see(number: int, given: Given) -> None:
        result.add(number, rows_of(given, queries, fuse))

    with watch(model, see, layers):
        yield result


def rows_of(given: Given, queries: Sequence[Query] | None = (0,), fuse: Fuse = every_head) -> LayerAttention:
    """Attention weights of one mixer for what it was given.

    Args:
        given: a mixer, its tokens and its context.
        queries: whose rows are wanted; None for all of them.
        fuse: what to keep of the heads.

    Raises:
        VitrailError: for a token or patch that does not exist.
    """
    mixer, tokens, context = given.exact()
    length = tokens.places.shape[1]
    wanted = range(length) if queries is None else queries
    if tokens.keep is not None and tokens.merged is None and any(isinstance(query, tuple) for query in wanted):
        raise VitrailError("patches cannot be named by row and column when some were dropped: name tokens by place")
    places = torch.tensor([place_of(query, tokens.grid, tokens.prefix, length) for query in wanted])
    # Without queries the mixer takes its own way to all rows, which is a cheaper one.
    rows = None if queries is None else places.to(tokens.values.device)
    # Autocast would take the query-key product in half precision; what is shown is exact instead.
    with torch.no_grad(), torch.autocast(tokens.values.device.type, enabled=False):
        weights = fuse(_weights(Given(mixer, tokens, context), rows)).cpu()
    seen = mixer.seen(tokens, context).unmerged()
    keep = None if seen.keep is None else seen.keep.cpu()
    return LayerAttention(weights, places, seen.grid, seen.prefix, keep, seen.registers)


def _weights(given: Given, rows: Int[Tensor, " q"] | None) -> Float[Tensor, "b heads q n"]:
    """Attention of chosen tokens to all, also where patches were merged.

    A patch has the row of the token that it is a part of, and of what goes to a token each of its patches has an equal
    part: what it would be if all of them stood there with the merged value. So rows sum to one.
    """
    mixer, tokens, context = given
    if tokens.merged is None:
        return mixer.weights(tokens, context, rows)
    wanted = tokens.places if rows is None else tokens.places[:, rows]
    # Each picture has merged in its own way: rows of all their tokens are asked for, and each takes its own.
    asked, which = wanted.unique(return_inverse=True)
    weights = mixer.weights(tokens, context, asked)
    which = which[:, None, :, None].expand(-1, weights.shape[1], -1, weights.shape[-1])
    return tokens.share_out(weights.gather(2, which))
