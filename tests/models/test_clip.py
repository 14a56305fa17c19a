"""CLIP and SigLIP as models: exact sizes, towers and pairs, what every family must do in its stricter form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.explanations import record
from vitrail.models import MODELS, DualEncoder, ImageTower, build, config_of
from vitrail.nn import Tokens

from .tiny_clip import CLIP, SIGLIP, TINY

COUNTS = {
    "clip_vit_base_patch32_224": 151_277_313,
    "clip_vit_base_patch16_224": 149_620_737,
    "clip_vit_large_patch14_224": 427_616_513,
    "siglip_vit_base_patch16_224": 203_155_970,
}
PAIRS = {"clip_vit_base_patch32_224": CLIP, "siglip_vit_base_patch16_224": SIGLIP}


def tiny(name: str, **options: object) -> ImageTower | DualEncoder:
    torch.manual_seed(0)
    model = build(config_of(name, {**TINY[name], **options}))
    assert isinstance(model, ImageTower | DualEncoder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs(model: ImageTower | DualEncoder, *size: int) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return model.example_inputs(2, size or None)


every = pytest.mark.parametrize("name", TINY)
every_pair = pytest.mark.parametrize("name", PAIRS)


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_exact_parameter_count(name: str, count: int) -> None:
    with torch.device("meta"):
        model = build(config_of(name))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("name", ["siglip_vit_base_patch16_512", "siglip_vit_so400m_patch14_384"])
def test_siglip_has_as_many_parameters_as_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = config_of(name)
    assert config.img_size in (384, 512)
    large = (
        {}
        if "base" in name
        else {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    )
    vision = dict(image_size=config.img_size, patch_size=config.patch_size, **large)
    with torch.device("meta"):
        ours = build(config)
        theirs = transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=large))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@every
def test_forward_and_backward_reach_every_parameter(name: str) -> None:
    model = tiny(name)
    out = model(*inputs(model))
    assert out.shape == (2, 2 if name in PAIRS else 5) and bool(out.isfinite().all())
    (out * torch.arange(out.numel()).reshape(out.shape)).square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias of the keys adds the same to all scores, so its gradient is rounding at most; what is zero is named.
    assert not [n for n in idle if not n.endswith("attn_pool.kv.bias")]


@every
def test_every_parameter_has_a_role_by_depth_and_kind(name: str) -> None:
    model = tiny(name)
    roles = model.roles()
    assert roles.keys() == dict(model.named_parameters()).keys()
    undecayed = {n for n, role in roles.items() if not role.decay}
    tables = {n for n in roles if n.endswith(("cls_token", "pos_embed", "latent", "token_embed.weight"))}
    assert undecayed == {n for n, p in model.named_parameters() if p.ndim < 2} | tables


def test_depths_of_both_towers_meet_at_the_end() -> None:
    model = tiny("clip_vit_base_patch32_224")  # Two blocks in the image, one in the text.
    depths = {name: role.depth for name, role in model.roles().items()}
    assert [depths[f"image.blocks.{i}.norm1.bias"] for i in (0, 1)] == [1, 2]
    assert depths["text.blocks.0.norm1.bias"] == 2
    assert depths["image.norm.bias"] == depths["text.norm.bias"] == depths["logit_scale"] == 3
    assert depths["image.pos_embed"] == depths["text.token_embed.weight"] == depths["image.norm_pre.weight"] == 0


@every
def test_intermediates_and_feature_maps_stand_on_the_grid(name: str) -> None:
    model = tiny(name).eval()
    images, *_ = inputs(model, 16, 40)
    tower = model.image if isinstance(model, DualEncoder) else model
    with torch.no_grad():
        maps = model.feature_maps(images)
        last = model.intermediates(images, [-1])[0]
        assert torch.equal(last.values, tower.features(images).values)
    assert [m.shape for m in maps] == [(2, 16, 2, 5)] * 2 and model.taps == 2


@every
def test_attention_of_both_towers_is_recorded(name: str) -> None:
    model = tiny(name).eval()
    images, *rest = inputs(model, 16, 24)
    with record(model, queries=None) as attention, torch.no_grad():
        model(images, *rest)
    assert len(attention.layers) == (3 if name in PAIRS else 2)
    assert attention[0].grid == (2, 3)
    for layer in attention.layers:
        rows = attention[layer].weights.sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))
    if name in PAIRS:
        assert attention[-1].grid == (7,)
        ahead = attention[-1].weights.triu(1)
        assert bool(ahead.any()) == name.startswith("siglip")


@every
def test_a_size_that_patches_do_not_divide_is_refused_or_cut(name: str) -> None:
    model = tiny(name).eval()
    images, *rest = inputs(model, 25, 31)
    if "384" in name:
        with torch.no_grad():
            assert torch.equal(model(images), model(images[..., :24, :24]))
        with pytest.raises(VitrailError, match="5x31 is smaller than one patch of 8x8"):
            model(images[..., :5, :])
    else:
        with pytest.raises(VitrailError, match="height 25 is not a multiple of the patch size 8"):
            model(images, *rest)


@every_pair
def test_vectors_have_length_one_and_logits_are_their_scaled_products(name: str) -> None:
    model = tiny(name).eval()
    images, ids = inputs(model)
    with torch.no_grad():
        image, text = model.embed_images(images), model.embed_texts(ids)
        logits = model(images, ids)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(2))
    expected = model.logit_scale.detach().exp() * image @ text.T
    if model.logit_bias is not None:
        expected = expected + model.logit_bias.detach()
    torch.testing.assert_close(logits, expected)


def test_a_text_that_is_too_long_is_refused_and_a_short_one_is_read() -> None:
    model = tiny("clip_vit_base_patch32_224").eval()
    ids = torch.tensor([[3, 4, 39, 0, 0, 0, 0]])
    with torch.no_grad():
        torch.testing.assert_close(model.embed_texts(ids), model.embed_texts(ids[:, :3]))
    with pytest.raises(VitrailError, match="a text of 8 tokens: this model reads at most 7"):
        model.embed_texts(torch.zeros(1, 8, dtype=torch.long))


def test_causal_text_does_not_look_ahead() -> None:
    model = tiny("clip_vit_base_patch32_224").eval()
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 39], [1, 2, 3, 9, 9, 9, 39]])
    with torch.no_grad():
        tokens = model.text.features(ids)
    assert isinstance(tokens, Tokens)
    torch.testing.assert_close(tokens.values[0, :3], tokens.values[1, :3])
    assert not torch.allclose(tokens.values[0, 3:], tokens.values[1, 3:])


def test_weights_start_as_published() -> None:
    torch.manual_seed(0)
    overrides = {**CLIP, "embed_dim": 256, "num_heads": 4, "text_dim": 256, "text_heads": 4, "vocab_size": 500}
    clip = build(config_of("clip_vit_base_patch32_224", {**overrides, "end_token": 9}))
    siglip = build(config_of("siglip_vit_base_patch16_224", SIGLIP))
    assert isinstance(clip, DualEncoder) and isinstance(siglip, DualEncoder)
    assert clip.logit_scale.item() == pytest.approx(math.log(1 / 0.07)) and clip.logit_bias is None
    assert (siglip.logit_scale.item(), siglip.logit_bias.item()) == pytest.approx((math.log(10), -10.0))
    deviations = {
        clip.text.token_embed.weight: 0.02,
        clip.text.blocks[0].attn.qkv.weight: 256**-0.5,
        clip.text.blocks[0].attn.proj.weight: 256**-0.5 * 2**-0.5,
        clip.image.blocks[0].mlp.fc2.weight: 256**-0.5 * 4**-0.5,
        clip.image.blocks[0].mlp.fc1.weight: 512**-0.5,
        clip.text_proj.weight: 256**-0.5,
    }
    for weight, expected in deviations.items():
        assert weight.std().item() == pytest.approx(expected, rel=0.1)
    assert siglip.image.blocks[0].attn.qkv.weight.abs().max() <= math.sqrt(6 / 32)


def test_dropout_and_drop_path_act_in_training_only() -> None:
    model = tiny("vit_base_patch16_clip_224", dropout=0.2, drop_path=0.5)
    images = inputs(model)[0]
    assert not torch.equal(model.train()(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("clip_vit_base_patch32_224", {"num_classes": 3}, "its classes are texts"),
        ("clip_vit_base_patch32_224", {"text_heads": 5}, "text_dim 12 is not divisible by text_heads 5"),
        ("clip_vit_base_patch32_224", {"end_token": 40}, "end_token 40 is no token of a vocabulary of 40"),
        ("siglip_vit_base_patch16_224", {"joint_dim": 8}, "joint_dim must be embed_dim"),
        ("vit_base_patch16_clip_224", {"img_size": 27}, "27x27 is not a multiple of patch_size 8x8.*32x32"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(name: str, options: dict, reason: str) -> None:
    with pytest.raises(VitrailError, match=reason):
        config_of(name, {**TINY[name], **options})


def test_every_tower_of_a_pair_has_its_own_name() -> None:
    pairs = {name: config for name, config in MODELS.items() if name.startswith(("clip_", "siglip_"))}
    towers = [config for config in MODELS.values() if type(config) is type(MODELS["vit_base_patch16_clip_224"])]
    assert len(pairs) == 12 and all(config.tower in towers for config in pairs.values())
