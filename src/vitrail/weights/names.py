"""Tables of names: how one project's tensors become ours, and ours become theirs. A format is data plus a few lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vitrail.data.preprocess import Preprocess
from vitrail.models import ModelConfig
from vitrail.weights.account import Account, shorten
from vitrail.weights.files import CheckpointError, Raw

Join = Callable[[Sequence[Tensor]], Tensor]
State = dict[str, Tensor]


def stack_rows(tensors: Sequence[Tensor]) -> Tensor:
    """One under the other on dimension 0: queries, keys and values become the joint projection."""
    return torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]


@dataclass(frozen=True)
class Name:
    """One of our tensors and what it is called elsewhere; ``{i}`` stands for the number of the block.

    Attributes:
        ours: our name.
        theirs: their name, or the names of the parts that make ours.
        join: makes ours from their parts.
    """

    ours: str
    theirs: tuple[str, ...]
    join: Join = stack_rows


@dataclass(frozen=True)
class Translated:
    """A checkpoint in our words.

    Attributes:
        config: what the tensors are the weights of.
        state: by our names.
        account: what became of theirs.
        classes: names of the classes in the order of the logits, empty when not known.
        preprocess: from a picture to the model's input, None when the checkpoint does not say.
        files: small text files by name that the model needs besides its weights (a tokenizer), as they are.
    """

    config: ModelConfig
    state: State
    account: Account
    classes: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    files: Mapping[str, str] = field(default_factory=dict)


Files = tuple[State, dict[str, dict[str, Any]]]
"""What another library opens: tensors, and the small JSON files beside them by name."""

Writer = Callable[[Any, Mapping[str, Tensor], Account, tuple[str, ...], Preprocess], Files]
"""From a family's config, a state by our names, the account, the classes and the preprocessing."""


@dataclass(frozen=True)
class Format:
    """One project's naming.

    Attributes:
        name: what it is called in messages.
        recognises: whether a set of names is in this naming.
        read: the translation; raises for names that it does not know.
    """

    name: str
    recognises: Callable[[frozenset[str]], bool]
    read: Callable[[Raw], Translated]


def both(ours: str, theirs: str | tuple[str, ...], *kinds: str, join: Join = stack_rows) -> list[Name]:
    """The same pair for ``weight`` and ``bias`` (or other kinds)."""
    parts = (theirs,) if isinstance(theirs, str) else theirs
    return [
        Name(f"{ours}.{kind}", tuple(f"{part}.{kind}" for part in parts), join) for kind in kinds or ("weight", "bias")
    ]


def blocks_in(names: Iterable[str], pattern: str) -> int:
    """How many blocks there are: one more than the highest number that ``pattern`` captures."""
    numbers = [int(found[1]) for name in names if (found := re.match(pattern, name))]
    return max(numbers, default=-1) + 1


def expand(table: Iterable[Name], depth: int) -> list[Name]:
    """The table with every ``{i}`` row written out for each block."""
    rows: list[Name] = []
    for row in table:
        if "{i}" not in row.ours:
            rows.append(row)
            continue
        for i in range(depth):
            number = str(i)
            theirs = tuple(part.replace("{i}", number) for part in row.theirs)
            rows.append(Name(row.ours.replace("{i}", number), theirs, row.join))
    return rows


def behind(table: Iterable[Name], ours: str, theirs: str) -> list[Name]:
    """The same rows with a prefix before our names and one before theirs."""
    return [Name(ours + row.ours, tuple(theirs + part for part in row.theirs), row.join) for row in table]


def translate(
    tensors: Mapping[str, Tensor],
    table: Iterable[Name],
    drops: Mapping[str, str],
    account: Account,
) -> State:
    """Their tensors under our names, in float32; every one of them is accounted for.

    Args:
        tensors: by their names.
        table: rows without ``{i}``; where several rows make the same tensor, the first that is complete is taken.
        drops: regular expressions (whole names) of what is left out on purpose, and why.
        account: filled in.

    Raises:
        CheckpointError: naming what neither the table nor ``drops`` knows.
    """
    state: State = {}
    left = dict(tensors)
    for row in table:
        if row.ours not in state and all(part in left for part in row.theirs):
            state[row.ours] = row.join([left.pop(part).float() for part in row.theirs]).contiguous()
            account.translated["+".join(row.theirs)] = row.ours
    unexpected = []
    for name in left:
        reason = next((reason for pattern, reason in drops.items() if re.fullmatch(pattern, name)), None)
        if reason is None:
            unexpected.append(name)
        else:
            account.dropped[name] = reason
    if unexpected:
        raise CheckpointError(
            f"{account.source}: reads like {account.format}, but has {len(unexpected)} tensors that no Vision "
            f"Transformer of that format has: {shorten(sorted(unexpected))}"
        )
    return state


def rename(state: Mapping[str, Tensor], table: Iterable[Name]) -> State:
    """Our tensors under their names; joined ones are split into equal parts on dimension 0.

    Raises:
        CheckpointError: naming what the table has no name for.
    """
    rows: dict[str, Name] = {}
    for row in table:
        rows.setdefault(row.ours, row)
    unknown = sorted(set(state) - set(rows))
    if unknown:
        raise CheckpointError(f"the other format has no place for {shorten(unknown)}")
    out: State = {}
    for ours, tensor in state.items():
        parts = rows[ours].theirs
        split = tensor.chunk(len(parts)) if len(parts) > 1 else (tensor,)
        out |= zip(parts, (part.contiguous() for part in split), strict=True)
    return out
