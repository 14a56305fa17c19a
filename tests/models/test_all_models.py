"""Every name in the table, made tiny: what any backbone must do."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace

import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.models import MODELS, VisionTransformer, ViTConfig, build, config_of, list_models
from vitrail.nn.embed import as_pair
from vitrail.nn.tokens import take_patches


def tiny(name: str, **options: object) -> VisionTransformer:
    """The named architecture with 2 blocks, 2 heads, 16-wide tokens on a 3×3 grid; its weights perturbed."""
    torch.manual_seed(0)
    patch = as_pair(config_of(name).patch_size)[0]
    overrides = {"depth": 2, "embed_dim": 16, "num_heads": 2, "img_size": 3 * patch, "num_classes": 5, **options}
    model = build(config_of(name, overrides))
    assert isinstance(model, VisionTransformer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def pictures(model: VisionTransformer, rows: int = 3, columns: int = 3, batch: int = 2) -> torch.Tensor:
    patch = model.patch_embed.patch_size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, model.in_channels, rows * patch[0], columns * patch[1], generator=generator)


every_model = pytest.mark.parametrize("name", [name for name in list_models() if isinstance(MODELS[name], ViTConfig)])


@every_model
def test_forward_and_backward_reach_every_parameter(name: str) -> None:
    model = tiny(name)
    logits = model(pictures(model))
    assert logits.shape == (2, 5) and bool(logits.isfinite().all())
    logits.square().sum().backward()
    idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # A mask token stands idle as long as nothing is masked.
    assert idle == ({"mask_token"} if model.config.mask_token else set())


@every_model
def test_last_intermediate_is_the_features_and_grids_fit(name: str) -> None:
    model = tiny(name).eval()
    images = pictures(model, 2, 4)
    with torch.no_grad():
        features = model.features(images)
        last, first = model.intermediates(images, [-1, 0])
        raw = model.intermediates(images, [1], norm=False)[0]
    config = model.config
    assert features.grid == (2, 4)
    assert features.prefix == config.class_token + config.distilled + config.registers
    assert features.feature_map().shape == (2, 16, 2, 4)
    assert torch.equal(last.values, features.values)
    assert torch.equal(model.norm(raw.values), features.values)
    assert not torch.allclose(first.values, last.values)


@every_model
def test_a_size_that_patches_do_not_divide_is_refused_with_a_way_out(name: str) -> None:
    model = tiny(name)
    patch = model.patch_embed.patch_size[0]
    images = torch.zeros(1, 3, 3 * patch + 1, 3 * patch)
    with pytest.raises(VitrailError, match=rf"height {3 * patch + 1} is not a multiple of the patch size {patch}"):
        model(images)


@every_model
def test_padding_equals_zeros_to_the_right_and_below(name: str) -> None:
    model = tiny(name, fit="pad").eval()
    images = pictures(model)[:, :, :-3, :-1]
    padded = torch.zeros_like(pictures(model))
    padded[:, :, : images.shape[2], : images.shape[3]] = images
    with torch.no_grad():
        assert model.features(images).grid == (3, 3)
        torch.testing.assert_close(model(images), model(padded))


@every_model
def test_resizing_keeps_whole_pictures_and_answers_for_odd_ones(name: str) -> None:
    model = tiny(name, fit="resize").eval()
    plain = tiny(name).eval()
    images = pictures(model)
    with torch.no_grad():
        assert torch.equal(model(images), plain(images))
        assert model.features(images[:, :, :-3, :-1]).grid == (3, 3)


@every_model
def test_dropout_and_drop_path_act_in_training_only(name: str) -> None:
    model = tiny(name, dropout=0.2, drop_path=0.5)
    images = pictures(model, batch=4)
    assert model.blocks[0].drop_path.rate == 0.0 and model.blocks[1].drop_path.rate == 0.5
    model.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))
    assert torch.equal(model(images), tiny(name).eval()(images))


@every_model
def test_state_dict_round_trip_gives_the_same_logits(name: str) -> None:
    model = tiny(name).eval()
    other = build(model.config).eval()
    images = pictures(model)
    assert not torch.equal(other(images), model(images))
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(images), model(images))


@every_model
def test_keep_takes_rows_of_the_full_embedding_and_mask_changes_only_what_it_names(name: str) -> None:
    model = tiny(name, mask_token=True).eval()
    images = pictures(model)
    keep = torch.tensor([[7, 0, 3], [1, 8, 2]])
    with torch.no_grad():
        full, part = model.embed(images), model.embed(images, keep=keep)
        assert part.grid == full.grid and part.keep is keep
        assert torch.equal(part.patches, take_patches(full.patches, keep))
        assert torch.equal(part.prefix_values, full.prefix_values)
        mask = torch.zeros(2, 9, dtype=torch.bool)
        mask[0, 4] = True
        masked = model.embed(images, mask=mask)
    changed = (masked.patches != full.patches).any(dim=-1)
    assert torch.equal(changed, mask)
    with pytest.raises(VitrailError, match="mask_token"):
        tiny(name, mask_token=False).embed(images, mask=mask)


@every_model
def test_any_number_of_bands_and_a_wrong_number_is_named(name: str) -> None:
    model = tiny(name, in_channels=5)
    assert model(pictures(model)).shape == (2, 5)
    with pytest.raises(VitrailError, match="3 channels but the model takes 5"):
        model(pictures(model)[:, :3])


@every_model
def test_every_parameter_has_a_role_by_depth_and_kind(name: str) -> None:
    model = tiny(name)
    roles = model.roles()
    assert roles.keys() == dict(model.named_parameters()).keys()
    assert (
        roles["patch_embed.proj.weight"].depth == 0
        and roles["blocks.1.mlp.fc1.weight" if model.config.mlp == "gelu" else "blocks.1.mlp.w12.weight"].depth == 2
    )
    assert roles["head.weight"].depth == 3
    undecayed = {n for n, role in roles.items() if not role.decay}
    vectors = {n for n, p in model.named_parameters() if p.ndim == 1}
    tokens = {"cls_token", "pos_embed"} | {"dist_token", "reg_token", "mask_token"} & roles.keys()
    assert undecayed == vectors | tokens


@pytest.mark.parametrize("pool", ["class", "mean", "class_mean", "attention"])
@pytest.mark.parametrize("pool_norm", [False, True])
def test_pools_give_the_width_they_announce(pool: str, pool_norm: bool) -> None:
    model = tiny("vit_tiny_patch16_224", pool=pool, pool_norm=pool_norm, registers=2)
    pooled = model.pool(model.features(pictures(model)))
    assert pooled.shape == (2, model.num_features) == (2, 32 if pool == "class_mean" else 16)


def test_mean_pool_leaves_prefix_tokens_out() -> None:
    model = tiny("vit_tiny_patch16_224", pool="mean", registers=3, num_classes=0).eval()
    tokens = model.features(pictures(model))
    torch.testing.assert_close(model.pool(tokens), tokens.values[:, 4:].mean(dim=1))


def test_two_heads_answer_with_their_mean() -> None:
    model = tiny("deit_tiny_distilled_patch16_224").eval()
    tokens = model.features(pictures(model))
    first, second = model.classify_both(tokens)
    torch.testing.assert_close(model(pictures(model)), (first + second) / 2)
    torch.testing.assert_close(second, model.head_dist(tokens.values[:, 1]))
    with pytest.raises(VitrailError, match="distilled=True"):
        tiny("vit_tiny_patch16_224").classify_both(tokens)


def test_one_norm_for_two_tokens_and_a_second_head_that_reads_one_are_refused() -> None:
    with pytest.raises(VitrailError, match="pool='class_mean' with pool_norm=True"):
        tiny("deit_tiny_distilled_patch16_224", pool="class_mean", pool_norm=True)
    for pool, pool_norm in (("class_mean", False), ("mean", True), ("class", True)):
        model = tiny("deit_tiny_distilled_patch16_224", pool=pool, pool_norm=pool_norm)
        assert model(pictures(model)).shape[1] == model.num_classes


def test_sincos_positions_are_fixed_and_resize_with_the_picture() -> None:
    model = tiny("vit_tiny_patch16_224", positions="sincos")
    assert not model.pos_embed.requires_grad
    assert model.features(pictures(model, 4, 5)).grid == (4, 5)


def test_without_class_token_only_patches_are_there() -> None:
    model = tiny("vit_tiny_patch16_224", class_token=False, pool="mean")
    assert model.features(pictures(model)).prefix == 0
    assert model.pos_embed.shape[1] == 9


def test_parallel_blocks_train() -> None:
    model = tiny("vit_tiny_patch16_224", block="parallel", qk_norm=True)
    model(pictures(model)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_reset_classifier_changes_the_config_too() -> None:
    model = tiny("deit_tiny_distilled_patch16_224")
    model.reset_classifier(9)
    assert model(pictures(model)).shape == (2, 9) and model.config == replace(model.config, num_classes=9)
    model.reset_classifier(0)
    assert model(pictures(model)).shape == (2, 16) and model.head_dist is None


def test_unknown_names_and_options_say_what_there_is() -> None:
    with pytest.raises(VitrailError, match="did you mean vit_base_patch16_224"):
        config_of("vit_base_patch16_225")
    with pytest.raises(VitrailError, match=r"no option widht; it has .*embed_dim"):
        config_of("vit_base_patch16_224", {"widht": 3})
    assert list_models("deit_*_384") == ["deit_base_distilled_patch16_384", "deit_base_patch16_384"]
    assert len(MODELS) == len(list_models())


@pytest.mark.parametrize("values", [{"depth": 0}, {"num_classes": -1}, {"registers": -1}])
def test_numbers_out_of_range_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(VitrailError):
        ViTConfig(**values)


@pytest.mark.parametrize(
    ("model", "field", "value", "wanted"),
    [
        ("vit_tiny_patch16_224", "depth", "x", "int"),
        ("vit_tiny_patch16_224", "depth", 2.0, "int"),
        ("vit_tiny_patch16_224", "depth", True, "int"),
        ("vit_tiny_patch16_224", "class_token", 1, "bool"),
        ("vit_tiny_patch16_224", "mlp_ratio", "4", "float"),
        ("vit_tiny_patch16_224", "layer_scale", "small", "float | None"),
        ("vit_tiny_patch16_224", "img_size", [224], "int | tuple[int, int]"),
        ("vit_tiny_patch16_224", "pool", "best", "Literal['class', 'mean'"),
        ("swin_tiny_patch4_window7_224", "depths", [2, 2, "6", 2], "tuple[int, ...]"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_one_that_is_wanted(
    model: str, field: str, value: object, wanted: str
) -> None:
    shown = tuple(value) if isinstance(value, list) else value
    with pytest.raises(VitrailError, match=re.escape(f"{model}: {field} must be {wanted}")) as error:
        config_of(model, {field: value})
    assert str(error.value).endswith(f"not {shown!r}")


def test_values_of_the_right_type_are_taken_as_they_are() -> None:
    given = {"img_size": [32, 48], "mlp_ratio": 2.0, "layer_scale": None, "depth": 3}
    config = config_of("vit_tiny_patch16_224", given)
    assert isinstance(config, ViTConfig)
    assert (config.img_size, config.mlp_ratio, config.layer_scale, config.depth) == ((32, 48), 2.0, None, 3)
    for name, known in MODELS.items():
        assert config_of(name, {field.name: getattr(known, field.name) for field in fields(known)}) == known


@pytest.mark.parametrize("field", ["dropout", "attention_dropout", "drop_path", "patch_drop"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 2.0, math.nan])
def test_rates_that_are_no_share_are_refused_also_where_a_single_block_would_ignore_them(
    field: str, value: float
) -> None:
    with pytest.raises(VitrailError, match=f"{field} must be at least 0 and below 1, not {value}"):
        ViTConfig(**{"depth": 1, field: value})


@pytest.mark.parametrize("model", ["swin_tiny_patch4_window7_224", "sam_vit_base_patch16", "resnet18", "detr_resnet50"])
def test_the_rates_of_every_family_are_looked_at(model: str) -> None:
    with pytest.raises(VitrailError, match="dropout must be at least 0 and below 1, not 2"):
        config_of(model, {"dropout": 2.0})


@pytest.mark.parametrize("field", ["img_size", "patch_size", "in_channels", "embed_dim", "num_heads"])
def test_sizes_below_one_are_refused_by_name(field: str) -> None:
    with pytest.raises(VitrailError, match=f"{field} must be at least 1, not 0"):
        config_of("vit_tiny_patch16_224", {field: 0})
