"""A second form of a model that shares all its tensors."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def twin(model: ModuleT) -> ModuleT:
    """Modules of its own around the parameters and buffers of ``model``, hooks included.

    What is then replaced in it is replaced in it alone; what moves or trains one moves or trains both.
    """
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
