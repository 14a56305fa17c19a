"""Heads from an earlier run: what a run leaves behind when only its encoder is kept, found again in its checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from vitrail.contracts import Method, VitrailError
from vitrail.engine import method_state, read_checkpoint
from vitrail.jobs.progress import say


@torch.no_grad()
def take_heads(method: Method, folder: Path, parts: tuple[str, ...]) -> None:
    """Give some parts of a method the values that they had at the end of another run of it, in place.

    Args:
        method: freshly built.
        folder: of the earlier run.
        parts: names of its submodules.

    Raises:
        VitrailError: no checkpoint there, of another method, or with heads of another size.
    """
    # That folder is another run's, which may still be going on: nothing in it is renamed.
    checkpoint = read_checkpoint(folder, say) if folder.is_dir() else None
    if checkpoint is None:
        raise VitrailError(f"heads={folder}: there is no checkpoint of an earlier run in that folder")
    state, stored = method.state_dict(), method_state(checkpoint.tensors)
    wanted = [name for name in state if name.partition(".")[0] in parts]
    for name in wanted:
        found = stored.get(name)
        if found is None or found.shape != state[name].shape:
            size = "not there" if found is None else f"of {tuple(found.shape)}"
            raise VitrailError(
                f"heads={folder}: {name} is {size}, not of {tuple(state[name].shape)}: take the heads of a run of the "
                "same method, model and sizes (prototypes, hidden, bottleneck, head_layers)"
            )
        state[name].copy_(found)
