"""The first blocks of a published transformer: what stands behind them is left out."""

from __future__ import annotations

from dataclasses import replace

from vitrail.models import PlainConfig
from vitrail.weights.names import Translated

BEHIND = ("attn_pool", "head", "head_dist")
"""What reads the last block's tokens. Norms stay, as in :meth:`vitrail.models.Plain.intermediates`."""


def first_blocks(found: Translated, depth: object) -> Translated:
    """Plain transformers keep their first ``depth`` blocks; pool and head, made for the last one, start anew.

    Weights of other families, and a depth that is none or more than there is, go on as they are: whoever compares
    the architectures says what is wrong with them.

    Args:
        found: a checkpoint in our words; what is left out is dropped from its account.
        depth: how many blocks are asked for.
    """
    config = found.config
    if not isinstance(config, PlainConfig) or not isinstance(depth, int) or not 1 <= depth < config.depth:
        return found
    state = {}
    for name, tensor in found.state.items():
        part = name.split(".")
        if part[0] == "blocks" and int(part[1]) >= depth:
            found.account.drop(name, f"behind the first {depth} blocks, which were asked for")
        elif part[0] in BEHIND:
            found.account.drop(name, f"made for the last of {config.depth} blocks; {depth} were asked for")
        else:
            state[name] = tensor
    return replace(found, config=replace(config, depth=depth), state=state, classes=())
