import pytest
import torch

from tests.web.conftest import MODELS, make_model
from vitrail.contracts import VitrailError
from vitrail.explanations import mean_of_heads, record, remember


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
@pytest.mark.parametrize("name", list(MODELS))
def test_one_pass_and_every_row_afterwards(name, size):
    model = make_model(name)
    images = torch.randn(2, 3, *size)
    recall = remember(model, images)
    with torch.no_grad():
        assert torch.equal(recall.tokens.values, model.features(images).values)
        for tap, expected in zip(recall.taps, model.intermediates(images, range(model.taps), norm=False), strict=True):
            torch.testing.assert_close(tap.values, expected.values)
        for depth, expected in enumerate(model.intermediates(images, range(model.taps))):
            torch.testing.assert_close(recall.features(depth).values, expected.values)
        if model.num_classes:
            torch.testing.assert_close(recall.logits, model(images))
        else:
            assert recall.logits is None
    if name == "convnext":
        assert recall.given == ()
        with pytest.raises(VitrailError, match="no attention"):
            recall.rows(0, (0,))
        return
    with record(model, queries=None) as whole, torch.no_grad():
        model(images)
    for layer in (0, 1, -1):
        rows = recall.rows(layer, (0, 5))
        assert rows.grid == whole[layer].grid
        assert rows.queries.tolist() == [0, 5]
        torch.testing.assert_close(rows.weights, whole[layer].weights[:, :, [0, 5]], atol=1e-5, rtol=1e-4)
    everything = recall.record(fuse=mean_of_heads)
    assert everything.layers == whole.layers
    torch.testing.assert_close(everything[1].weights[:, 0], whole[1].weights.mean(1), atol=1e-5, rtol=1e-4)


def test_mode_and_gradients_are_left_alone_and_no_hook_stays():
    model = make_model("vit").train()
    recall = remember(model, torch.randn(1, 3, 32, 32))
    assert model.training
    assert not recall.tokens.values.requires_grad
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert recall.nbytes == 4 * 32 * 17 * (3 + 3 + 1)
    for number in (3, -4):
        with pytest.raises(VitrailError, match="no layer"):
            recall.rows(number, (0,))
        with pytest.raises(VitrailError, match="no depth"):
            recall.features(number)


def test_rows_are_exact_also_after_a_pass_in_half_precision():
    model, images = make_model("vit"), torch.randn(1, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        recall = remember(model, images)
    rows = recall.rows(1, (4,)).weights
    assert rows.dtype == torch.float32
    values = recall.given[1].tokens.values.double()
    attention = model.blocks[1].attn
    projected = values @ attention.qkv.weight.double().T + attention.qkv.bias.double()
    query, key = (part.unflatten(-1, (2, 16)).transpose(1, 2) for part in projected.chunk(3, dim=-1)[:2])
    exact = (query[:, :, 4:5] @ key.mT / 16**0.5).softmax(dim=-1)
    torch.testing.assert_close(rows.double(), exact, atol=1e-5, rtol=1e-4)
