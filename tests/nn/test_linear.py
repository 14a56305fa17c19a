"""A third of a joint projection is what the whole one gives there, whatever kind of layer it is."""

from functools import partial
from unittest import mock

import pytest
import torch
from torch import nn

from vitrail.nn import KeylessLinear
from vitrail.nn.linear import third_of
from vitrail.nn.lora import LoRALinear

MAKERS = {
    "linear": nn.Linear,
    "no bias": partial(nn.Linear, bias=False),
    "keyless": KeylessLinear,
    "adapted": lambda dim, out: LoRALinear(nn.Linear(dim, out), rank=2),
    "two layers": lambda dim, out: nn.Sequential(nn.Linear(dim, dim), nn.Linear(dim, out)),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_thirds_are_those_of_the_whole(kind):
    torch.manual_seed(0)
    layer = MAKERS[kind](8, 24)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 5, 8)
    for third, expected in enumerate(layer(x).chunk(3, dim=-1)):
        torch.testing.assert_close(third_of(layer, x, third), expected)


@pytest.mark.parametrize("kind", ["linear", "no bias", "keyless"])
def test_only_a_third_is_computed(kind):
    layer = MAKERS[kind](8, 24)
    with mock.patch("torch.nn.functional.linear", wraps=nn.functional.linear) as product:
        third_of(layer, torch.randn(2, 5, 8), 1)
    assert [call.args[1].shape for call in product.call_args_list] == [(8, 8)]
