"""Swin: its sizes, its stages, its windows on grids of any size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.explanations import attention_maps, mean_of_heads, record, rollout
from vitrail.models import Swin, build, config_of, list_models
from vitrail.models.tune import tune_last, tune_lora
from vitrail.nn import WindowMixer
from vitrail.weights import Artefact, load_artefact

from .peers import perturb, pictures
from .tiny_swin import TINY

NAME = "swin_tiny_patch4_window7_224"
COUNTS = {"swin_tiny_patch4_window7_224": 28_288_354, "swin_large_patch4_window7_224": 196_532_476}


def tiny(**options: object) -> Swin:
    torch.manual_seed(0)
    made = build(config_of(NAME, {**TINY[NAME], **options}))
    assert isinstance(made, Swin)
    perturb(made)
    return made


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_exact_parameter_count(name: str, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build(config_of(name)).parameters()) == count


def test_every_published_size_has_a_name() -> None:
    sizes = ("base", "large", "small", "tiny")
    assert list_models("swin_*_224") == [f"swin_{size}_patch4_window7_224" for size in sizes]
    assert list_models("swin_*_384") == [f"swin_{size}_patch4_window12_384" for size in sizes]
    for name in list_models("swin_*"):
        config = config_of(name)
        assert set(config.windows) == {(config.window_size, config.window_size)}
        assert config.grids[-1] == config.windows[-1]


@pytest.mark.parametrize("size", [(56, 56), (44, 100), (60, 36)])
def test_four_stages_are_feature_maps(size: tuple[int, int]) -> None:
    model = tiny()
    images = pictures(*size)
    with torch.no_grad():
        maps = model.feature_maps(images)
        grid = (size[0] // 4, size[1] // 4)
        for stage, found in enumerate(maps):
            assert found.shape == (2, 16 * 2**stage, *(-(-side // 2**stage) for side in grid))
        features = model.features(images)
        assert torch.equal(maps[-1], features.feature_map())
        raw = model.intermediates(images, [-1, 0], norm=False)
        assert torch.equal(model.norm(raw[0].values), features.values)
        assert torch.equal(raw[1].feature_map(), maps[0]), "the norm does not fit the other stages"
    with pytest.raises(IndexError, match="4"):
        model.intermediates(images, [4])


def test_windows_are_never_larger_than_their_grid_and_every_second_block_moves_them() -> None:
    model = tiny()
    assert model.config.windows == ((7, 7), (7, 7), (4, 4), (2, 2))
    mixers = [module for module in model.modules() if isinstance(module, WindowMixer)]
    assert [mixer.window for mixer in mixers] == [w for w in model.config.windows for _ in range(2)]
    assert [mixer.shift for mixer in mixers[:4]] == [(0, 0), (3, 3)] * 2
    assert tiny(window_size=(2, 3, 4, 2)).config.windows == ((2, 2), (3, 3), (4, 4), (2, 2))


def test_a_patch_changes_its_own_window_only_until_windows_move() -> None:
    model = tiny(depths=(2,), num_heads=(1,), window_size=2, img_size=32)
    images = pictures(32, 32, batch=1)
    other = images.clone()
    other[..., :4, :4] += 1.0
    first, second = (model.layers[0].blocks.taps(model.embed(x), [0, 1]) for x in (images, other))
    changed = [(a.values != b.values).any(-1)[0].view(8, 8) for a, b in zip(first, second, strict=True)]
    assert [int(places.nonzero().max()) for places in changed] == [1, 2]


@pytest.mark.parametrize("size", [(56, 56), (44, 100)])
def test_trains(size: tuple[int, int]) -> None:
    model = tiny().train()
    model(pictures(*size)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_artefact_keeps_the_window_of_each_stage(tmp_path: Path) -> None:
    model = tiny(window_size=(7, 7, 4, 1)).eval()
    Artefact(model, (), Preprocess(size=(56, 56))).save_pretrained(tmp_path / "a")
    loaded = load_artefact(tmp_path / "a").model
    assert loaded.config == model.config
    assert torch.equal(loaded(pictures(56, 56)), model(pictures(56, 56)))


def test_attention_is_recorded_on_the_grid_of_each_stage() -> None:
    model = tiny().eval()
    with record(model, queries=None) as attention, torch.no_grad():
        model(pictures(56, 56))
    sides = (14, 14, 7, 7, 4, 4, 2, 2)
    assert attention.layers == tuple(range(8))
    for layer, side in enumerate(sides):
        weights = attention[layer].weights
        assert attention[layer].grid == (side, side) and weights.shape[-2:] == (side**2, side**2)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    window = attention[0].maps()[0, 0, 0]
    assert bool((window[:7, :7] > 0).all()) and not window[7:].any() and not window[:, 7:].any()


def test_single_layers_are_mapped_and_rollout_through_several_grids_is_refused() -> None:
    model, images = tiny(), pictures(56, 56)
    assert attention_maps(model, images, 1).shape == (2, 14, 14)
    with record(model, queries=None, fuse=mean_of_heads) as attention, torch.no_grad():
        model(images)
    with pytest.raises(VitrailError, match="layer 2 has 49 tokens and the one before it 196"):
        rollout(attention)


def test_what_filled_up_places_took_is_left_out_of_recorded_rows() -> None:
    model = tiny().eval()
    with record(model, queries=((0, 0),)) as attention, torch.no_grad():
        model(pictures(44, 60))
    assert attention[0].grid == (11, 15) and attention[6].grid == (2, 2)
    assert attention.maps(0).shape == (2, 1, 1, 11, 15)
    for layer in attention.layers:
        sums = attention[layer].weights.sum(-1)
        assert bool((sums <= 1.0 + 1e-5).all()) and bool((sums > 0).all())


def test_dropout_and_drop_path_act_in_training_only() -> None:
    model = tiny(dropout=0.2, drop_path=0.5, attention_dropout=0.1)
    rates = [block.drop_path.rate for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.5 * i / 7 for i in range(8)])
    images = pictures(56, 56, batch=4)
    model.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), tiny().eval()(images))


def test_roles_count_blocks_through_all_stages() -> None:
    model = tiny()
    roles = model.roles()
    assert roles.keys() == dict(model.named_parameters()).keys()
    depth = {name: role.depth for name, role in roles.items()}
    assert depth["patch_embed.proj.weight"] == depth["patch_norm.weight"] == 0
    assert depth["layers.0.blocks.0.norm1.weight"] == 1 and depth["layers.3.blocks.1.mlp.fc2.weight"] == 8
    assert depth["layers.1.downsample.reduction.weight"] == 2 and depth["layers.1.blocks.0.norm1.weight"] == 3
    assert depth["norm.weight"] == depth["head.weight"] == 9
    table = "layers.0.blocks.0.attn.mixer.position_bias.relative_position_bias_table"
    assert not roles[table].decay and not roles["norm.weight"].decay
    assert roles["layers.1.downsample.reduction.weight"].decay and roles["patch_embed.proj.weight"].decay


def test_tuning_the_last_blocks_or_low_rank_updates() -> None:
    model = tiny()
    tune_last(1)(model)
    learned = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learned == {"layers", "norm", "head"}
    assert not model.layers[3].blocks[0].norm1.weight.requires_grad
    assert model.layers[3].blocks[1].norm1.weight.requires_grad
    model = tiny()
    tune_lora(2, 4.0)(model)
    assert sum(name.endswith("lora_a") for name, _ in model.named_parameters()) == 8 * 4


def test_classifier_is_reset_and_set() -> None:
    model = tiny()
    model.reset_classifier(3)
    weight, bias = torch.randn(3, model.num_features), torch.randn(3)
    model.set_classifier(weight, bias)
    pooled = model.pool(model.features(pictures(56, 56)))
    torch.testing.assert_close(model(pictures(56, 56)), pooled @ weight.T + bias)
    assert model.config.num_classes == 3
    with pytest.raises(VitrailError, match="does not fit"):
        model.set_classifier(weight[:2], bias[:2])
    model.reset_classifier(0)
    assert torch.equal(model(pictures(56, 56)), model.pool(model.features(pictures(56, 56))))


def test_initialisation_as_published() -> None:
    model = build(config_of(NAME, {**TINY[NAME], "embed_dim": 64, "num_heads": (2, 4, 8, 16)}))
    block = model.layers[2].blocks[0]
    weights = {name: tensor.detach() for name, tensor in block.state_dict().items()}
    for name in ("attn.mixer.qkv.weight", "attn.mixer.proj.weight", "mlp.fc1.weight"):
        assert float(weights[name].std()) == pytest.approx(0.02, rel=0.1) and abs(float(weights[name].mean())) < 1e-3
    assert float(weights["attn.mixer.position_bias.relative_position_bias_table"].std()) == pytest.approx(0.02, rel=0.1)
    assert not block.attn.mixer.qkv.bias.any()


def test_sizes_that_patches_do_not_divide() -> None:
    images = pictures(57, 54)
    with pytest.raises(VitrailError, match="57 is not a multiple of the patch size 4: use 56 or 60"):
        tiny()(images)
    padded = torch.zeros(2, 3, 60, 56)
    padded[..., :57, :54] = images
    with torch.no_grad():
        assert torch.equal(tiny(fit="pad").eval()(images), tiny().eval()(padded))
        assert tiny(fit="resize").features(images).grid == (2, 2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_heads": (1, 2)}, "one number for each stage"),
        ({"window_size": (7, 7)}, "one number for each stage"),
        ({"window_size": 0}, "at least 1"),
        ({"depths": (2, 0, 2, 2)}, "at least 1"),
        ({"num_heads": (3, 2, 2, 4)}, "width 16 cannot have 3 heads"),
        ({"img_size": 57}, "not a multiple"),
    ],
)
def test_numbers_that_make_no_model_are_refused(options: dict, reason: str) -> None:
    with pytest.raises(VitrailError, match=reason):
        config_of(NAME, {**TINY[NAME], **options})
