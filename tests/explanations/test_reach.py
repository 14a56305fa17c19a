import math

import numpy as np
import pytest
import torch

from tests.explanations.planted import explicit_attention, planted_vit, tiny_vit
from tests.models.tiny import TINY
from vitrail.contracts import VitrailError
from vitrail.explanations import attention_distance, attention_entropy, measure_reach, record
from vitrail.explanations import reach as module
from vitrail.models import Backbone, build, config_of


def test_a_head_that_looks_at_one_patch_reaches_as_far_as_that_patch_is():
    """Patches of 8 on a grid of 2 x 3: every one looks at the last, so the distances are known."""
    model = planted_vit((16, 24), dict.fromkeys(range(7), 6))
    (layer,) = measure_reach(model, torch.randn(2, 3, 16, 24))
    centres = np.array([(4 + 8 * row, 4 + 8 * column) for row in range(2) for column in range(3)])
    expected = np.linalg.norm(centres - centres[-1], axis=1).mean()
    assert layer.distance.shape == (2, 1)
    assert layer.distance.flatten().tolist() == pytest.approx([expected, expected], rel=1e-3)
    assert float(layer.entropy.max()) < 0.05


def test_a_head_that_looks_at_its_own_patch_reaches_nowhere():
    model = planted_vit((48, 64), {})
    (layer,) = measure_reach(model, torch.randn(1, 3, 48, 64))
    assert float(layer.distance) < 1e-3


def test_a_head_that_looks_everywhere_has_the_entropy_of_all_tokens():
    model = tiny_vit((16, 24))
    for block in model.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight)
        torch.nn.init.zeros_(block.attn.qkv.bias)
    for layer in measure_reach(model, torch.randn(1, 3, 16, 24)):
        torch.testing.assert_close(layer.entropy, torch.full((1, 2), math.log(7)))
        # Mean over all pairs of a 2 x 3 grid of patches of 8, each with itself counted.
        torch.testing.assert_close(layer.distance, torch.full((1, 2), _all_pairs()))


def _all_pairs():
    places = [(8 * row, 8 * column) for row in range(2) for column in range(3)]
    return sum(math.dist(one, other) for one in places for other in places) / 36


@pytest.mark.parametrize("at_once", [1, 16 * 2 * 11 * 4, 2**25])
def test_reach_equals_an_explicit_computation_in_float64_however_it_is_cut(at_once, monkeypatch):
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", at_once)
    model, images = tiny_vit((16, 24), registers=4), torch.randn(2, 3, 16, 24)
    centres = np.array([(4 + 8 * row, 4 + 8 * column) for row in range(2) for column in range(3)])
    between = torch.from_numpy(np.linalg.norm(centres[:, None] - centres[None], axis=-1))
    found = measure_reach(model, images)
    assert [layer.layer for layer in found] == [0, 1, 2]
    for layer, weights in zip(found, explicit_attention(model, images), strict=True):
        rows = weights[:, :, 5:]
        shares = rows[..., 5:] / rows[..., 5:].sum(-1, keepdim=True)
        distance = (shares * between).sum(-1).mean(-1)
        entropy = -(rows * rows.log()).sum(-1).mean(-1)
        torch.testing.assert_close(layer.distance.double(), distance, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.entropy.double(), entropy, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in TINY if name.startswith(("swin", "samvit", "beit", "videomae"))])
def test_reach_of_other_families_is_finite_and_stays_on_the_picture(name):
    torch.manual_seed(0)
    model = build(config_of(name, TINY[name]))
    if not isinstance(model, Backbone):
        pytest.skip("a pair or a pretraining model")
    (images,) = model.example_inputs(1)
    for layer in measure_reach(model, images):
        whole = module.diagonal((images.shape[-2], images.shape[-1]))
        assert layer.distance.isfinite().all() and (layer.distance >= 0).all() and (layer.distance < whole).all()
        assert (layer.entropy >= 0).all()


def test_windows_bound_how_far_a_layer_reaches():
    """Swin's first stage looks no farther than its windows of 4 x 4 patches of 4 pixels."""
    name = next(name for name in TINY if name.startswith("swin"))
    model = build(config_of(name, TINY[name]))
    (images,) = model.example_inputs(1)
    first = measure_reach(model, images)[0]
    window, patch = model.config.window_size, model.config.patch_size
    assert float(first.distance.max()) < math.hypot(window * patch, window * patch)


def test_the_mode_of_the_model_is_kept_and_recorded_rows_can_be_measured():
    model, images = tiny_vit(), torch.randn(1, 3, 16, 24)
    model.train()
    found = measure_reach(model, images)
    assert model.training
    model.eval()
    with record(model, queries=None) as attention, torch.no_grad():
        model(images)
    torch.testing.assert_close(attention_distance(attention[1], (16, 24)), found[1].distance)
    torch.testing.assert_close(attention_entropy(attention[1]), found[1].entropy)


def test_rows_of_no_patch_and_dropped_patches_are_refused():
    model, images = tiny_vit(), torch.randn(1, 3, 16, 24)
    with record(model) as attention, torch.no_grad():
        model(images)
    with pytest.raises(VitrailError, match="no row of a patch"):
        attention_entropy(attention[0])
    with record(model, queries=None) as attention, torch.no_grad():
        model.blocks(model.embed(images, keep=torch.tensor([[0, 4]])))
    with pytest.raises(VitrailError, match="keep only a part"):
        attention_distance(attention[0], (16, 24))


def test_a_model_without_attention_is_refused():
    with pytest.raises(VitrailError, match="no attention"):
        measure_reach(torch.nn.Linear(2, 2), torch.randn(1, 3, 2, 2))
