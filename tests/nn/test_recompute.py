"""Blocks computed twice: the same gradients to the bit, and less kept in between."""

import pytest
import torch
from torch import Tensor, nn

import vitrail
from vitrail.nn.context import Context
from vitrail.nn.encoder import Encoder, recompute_blocks
from vitrail.nn.tokens import Tokens

OPTIONS = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 5}


def model() -> nn.Module:
    torch.manual_seed(0)
    return vitrail.create_model("vit_tiny_patch16_224", **OPTIONS, drop_path=0.5, dropout=0.2).train()


def step(network: nn.Module, autocast: bool) -> tuple[list[Tensor], int]:
    """Gradients, and how many numbers were kept for them outside of the parameters."""
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    own = {parameter.data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = network(images).float().square().mean()
        held = sum(kept.values())
        loss.backward()
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None], held


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_the_same_bits_from_less_memory(autocast: bool) -> None:
    plain, again = model(), model()
    assert recompute_blocks(again) == 1
    expected, much = step(plain, autocast)
    found, little = step(again, autocast)
    assert len(found) == len(list(again.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert little < 0.45 * much, (little, much)


def test_nothing_is_computed_twice_without_gradients() -> None:
    calls = []

    class Counting(nn.Module):
        def forward(self, tokens: Tokens, context: Context) -> Tokens:
            calls.append(1)
            return tokens

    encoder = Encoder([Counting(), Counting()])
    encoder.recompute = True
    with torch.no_grad():
        encoder(Tokens(torch.zeros(1, 4, 2), grid=(2, 2)))
    assert len(calls) == 2


def test_a_model_without_blocks_has_none() -> None:
    assert recompute_blocks(nn.Linear(2, 2)) == 0
