"""Traces the forward pass of every tiny model with ``torch.compile``; prints the names that fail, with the reason.

A process of its own, because the run-time checks of shapes that the tests install cannot be traced.
"""

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.models.tiny import TINY
from vitrail.models import build, config_of


def failure(name: str) -> str:
    """Why a model does not compile, empty when it does."""
    torch.manual_seed(0)
    model = build(config_of(name, TINY[name])).eval()
    inputs = model.example_inputs(2)
    torch.compiler.reset()
    with torch.no_grad():
        expected = model(*inputs)
        try:
            found = torch.compile(model, backend="eager", fullgraph=True)(*inputs)
        except Exception as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    for one, other in zip(tree_leaves(expected), tree_leaves(found), strict=True):
        if isinstance(one, Tensor) and not torch.allclose(one, other, atol=1e-5):
            return "another answer than without it"
    return ""


if __name__ == "__main__":
    for name in TINY:
        reason = failure(name)
        if reason:
            print(f"{name}: {reason}")
