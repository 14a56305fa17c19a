import math

import pytest
import torch
from torch import nn

from vitrail.nn.init import init_jax, init_mae, init_trunc_normal


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 64, 16)
        self.qkv = nn.Linear(256, 3 * 256)
        self.mlp = nn.Linear(256, 512)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_trunc_normal_has_deviation_002_and_leaves_convolutions_alone(net):
    before = net.patch.weight.clone()
    init_trunc_normal(net)
    assert net.qkv.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert net.qkv.bias.abs().max() == 0
    assert torch.equal(net.patch.weight, before)


def test_jax_takes_queries_keys_and_values_as_three_layers(net):
    init_jax(net)
    assert net.qkv.weight.abs().max().item() == pytest.approx(math.sqrt(6 / 512), rel=0.01)
    assert net.mlp.weight.abs().max().item() == pytest.approx(math.sqrt(6 / 768), rel=0.01)
    assert 0 < net.mlp.bias.abs().max() < 1e-5
    assert net.patch.weight.std().item() == pytest.approx(math.sqrt(1 / (3 * 256)), rel=0.02)


def test_mae_takes_the_patch_projection_as_a_linear_layer(net):
    init_mae(net)
    assert net.patch.weight.abs().max().item() == pytest.approx(math.sqrt(6 / (3 * 256 + 64)), rel=0.01)
    assert net.qkv.weight.abs().max().item() == pytest.approx(math.sqrt(6 / 1024), rel=0.01)
