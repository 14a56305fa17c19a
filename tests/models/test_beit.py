"""BEiT: its sizes, relative positions per layer and shared, masking."""

from __future__ import annotations

import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.explanations import record
from vitrail.models import Beit, build, config_of, list_models
from vitrail.nn.relative import BIAS_RESIZES, resize_bias

from .peers import perturb, pictures
from .tiny_beit import TINY

BASE = "beit_base_patch16_224"


def tiny(name: str = BASE, **options: object) -> Beit:
    torch.manual_seed(0)
    made = build(config_of(name, {**TINY[name], **options}))
    assert isinstance(made, Beit)
    perturb(made)
    return made


every_tiny = pytest.mark.parametrize("name", TINY)


def test_exact_parameter_count() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build(config_of(BASE)).parameters()) == 86_530_984


def test_every_published_size_has_a_name() -> None:
    assert list_models("beit_*") == [
        *(f"beit_base_patch16_{pixels}" for pixels in (224, 384)),
        *(f"beit_large_patch16_{pixels}" for pixels in (224, 384, 512)),
    ]
    assert config_of(BASE).layer_scale == 0.1 and config_of("beit_large_patch16_224").layer_scale == 1e-5


@every_tiny
@pytest.mark.parametrize("size", [(48, 48), (32, 80)])
def test_trains(name: str, size: tuple[int, int]) -> None:
    model = tiny(name).train()
    model(pictures(*size)).square().sum().backward()
    idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle == ({"mask_token"} if model.config.mask_token else set())


@every_tiny
@pytest.mark.parametrize("size", [(48, 48), (32, 80)])
def test_recorded_attention_has_the_relative_positions_in_it(name: str, size: tuple[int, int]) -> None:
    model = tiny(name).eval()
    rows = []
    for scale in (1.0, 0.0):
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias_table"):
                parameter.data *= scale
        with record(model, queries=None) as attention, torch.no_grad():
            model(pictures(*size))
        weights = attention[0].weights
        assert attention[0].grid == (size[0] // 16, size[1] // 16) and attention[0].prefix == 1
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        rows.append(weights)
    assert float((rows[0] - rows[1]).abs().max()) > 1e-3


@every_tiny
@pytest.mark.parametrize("variant", ["geometric", "bilinear", "bicubic"])
def test_another_size_equals_a_model_made_for_it_with_the_table_resized(name: str, variant: str) -> None:
    model = tiny(name, bias_resize=variant).eval()
    other = tiny(name, bias_resize=variant, img_size=(32, 80)).eval()
    weights = model.state_dict()
    for key in [key for key in weights if key.endswith("bias_table")]:
        weights[key] = resize_bias(weights[key], (3, 3), (2, 5), BIAS_RESIZES[variant])
    other.load_state_dict(weights)
    images = pictures(32, 80)
    with torch.no_grad():
        assert torch.equal(model(images), other(images))
        assert model.feature_maps(images, [-1])[0].shape == (2, 32, 2, 5)


def test_a_shared_table_equals_the_same_table_in_every_layer() -> None:
    shared, apart = tiny(shared_bias=True).eval(), tiny().eval()
    weights = shared.state_dict()
    table = weights.pop("rel_pos_bias.relative_position_bias_table")
    apart.load_state_dict(
        {**weights, **{f"blocks.{i}.attn.position_bias.relative_position_bias_table": table for i in range(2)}}
    )
    for size in ((48, 48), (32, 80)):
        torch.testing.assert_close(shared(pictures(*size)), apart(pictures(*size)), atol=1e-6, rtol=1e-5)


def test_the_mask_token_stands_for_masked_patches_only() -> None:
    model = tiny(mask_token=True).eval()
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, 4] = True
    with torch.no_grad():
        plain, masked = (model.embed(pictures(48, 48), mask=m) for m in (None, mask))
    assert torch.equal((plain.patches != masked.patches).any(-1), mask)
    assert torch.equal(masked.patches[0, 4], model.mask_token[0])


def test_dropped_patches_train_with_tables_for_each_layer() -> None:
    model = tiny(patch_drop=0.5).train()
    model(pictures(48, 48)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    with pytest.raises(VitrailError, match="shared_bias=False"):
        tiny(patch_drop=0.5, shared_bias=True)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    masked = tiny(patch_drop=0.5, mask_token=True)
    with pytest.raises(VitrailError, match=r"patch_drop=0\.5 would leave out masked patches"):
        masked.train().embed(pictures(48, 48), mask=mask)
    assert masked.eval().embed(pictures(48, 48), mask=mask).patches.shape[1] == 9


@every_tiny
def test_roles_put_a_shared_table_first_and_decay_no_table(name: str) -> None:
    model = tiny(name)
    roles = model.roles()
    assert roles.keys() == dict(model.named_parameters()).keys()
    tables = {key: role for key, role in roles.items() if key.endswith("bias_table")}
    assert tables and not any(role.decay for role in tables.values())
    expected = {"rel_pos_bias": 0} if model.config.shared_bias else {"blocks": 2}
    assert max(role.depth for role in tables.values()) == expected[next(iter(tables)).split(".")[0]]
    assert roles["blocks.0.attn.qkv.weight"].decay and not roles["blocks.0.attn.qkv.q_bias"].decay


def test_initialisation_as_published() -> None:
    model = build(config_of(BASE, {**TINY[BASE], "embed_dim": 128, "depth": 3}))
    for number, block in enumerate(model.blocks):
        scale = (2.0 * (number + 1)) ** 0.5
        assert float(block.attn.qkv.weight.std()) == pytest.approx(0.02, rel=0.05)
        assert float(block.attn.proj.weight.std()) == pytest.approx(0.02 / scale, rel=0.05)
        assert float(block.mlp.fc2.weight.std()) == pytest.approx(0.02 / scale, rel=0.05)
        assert not block.attn.position_bias.relative_position_bias_table.any()
        assert bool((block.ls1.gamma == 0.1).all())
    assert float(model.cls_token.std()) == pytest.approx(0.02, rel=0.3)
    assert float(model.head.weight.std()) == pytest.approx(2e-5, rel=0.2)
