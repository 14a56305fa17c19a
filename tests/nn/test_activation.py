"""Three forms of the GELU: near each other, and not the same."""

import math

import pytest
import torch

from vitrail.nn import ACTIVATIONS

FORMULAS = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_form_is_its_formula_and_near_the_exact_one(name: str) -> None:
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    found = ACTIVATIONS[name]()(x)
    assert found.tolist() == pytest.approx([FORMULAS[name](v) for v in x.tolist()], abs=1e-12)
    assert float((found - ACTIVATIONS["gelu"]()(x)).abs().max()) < 0.03


def test_no_two_forms_are_the_same() -> None:
    x = torch.linspace(-3, 3, 25)
    one, two, three = (activation()(x) for activation in ACTIVATIONS.values())
    assert all(float((a - b).abs().max()) > 1e-4 for a, b in ((one, two), (two, three), (one, three)))
