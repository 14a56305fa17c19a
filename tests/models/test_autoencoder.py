"""Masked autoencoders and video transformers: sizes, what they refuse, and all that every model must do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.explanations import record
from vitrail.heads.pixels import masked_error, unpatchify
from vitrail.models import (
    Autoencoder,
    MaskedAutoencoder,
    MaskedVideoAutoencoder,
    Model,
    VideoTransformer,
    VisionTransformer,
    build,
    config_of,
    list_models,
)
from vitrail.nn.masking import mask_of
from vitrail.weights import Artefact, create_model, load_artefact

from .tiny_mae import TINY

COUNTS = {
    "mae_vit_base_patch16_224": 111_907_840,
    "mae_vit_large_patch16_224": 329_541_888,
    "mae_vit_huge_patch14_224": 657_074_508,
    "videomae_base_patch16_224": 86_534_800,
    "pretrain_videomae_base_patch16_224": 94_210_944,
}
every = pytest.mark.parametrize("name", TINY)
autoencoders = pytest.mark.parametrize("name", ["mae_vit_base_patch16_224", "pretrain_videomae_base_patch16_224"])


def tiny(name: str, **options: object) -> Model:
    torch.manual_seed(0)
    model = build(config_of(name, {**TINY[name], **options}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def autoencoder(name: str, **options: object) -> Autoencoder:
    model = tiny(name, **options)
    assert isinstance(model, Autoencoder)
    return model


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_exact_parameter_count(name: str, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build(config_of(name)).parameters()) == count


def test_the_video_encoder_is_a_vit_of_its_size_whose_patches_have_depth() -> None:
    for size in ("small", "base", "large", "huge"):
        with torch.device("meta"):
            video = build(config_of(f"videomae_{size}_patch16_224"))
            picture = build(config_of(f"vit_{size}_patch16_224", {"num_classes": 400}))
        dim, depth = video.config.embed_dim, video.config.depth
        # Twice the pixels in a patch; no class token, no learned positions, no biases of keys.
        difference = 3 * 16 * 16 * dim - dim - 197 * dim - depth * dim
        assert sum(p.numel() for p in video.parameters()) - sum(p.numel() for p in picture.parameters()) == difference
    assert len(list_models("*mae_*")) == 11


@every
def test_forward_and_backward_reach_every_trainable_parameter(name: str) -> None:
    model = tiny(name)
    answer = model(*model.example_inputs(2))
    assert bool(answer.isfinite().all())
    answer.square().sum().backward()
    idle = {n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    fixed = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert not idle
    assert fixed == ({"encoder.pos_embed", "decoder_pos_embed"} if name.startswith("mae") else set())


@every
def test_half_precision_answers_are_near(name: str) -> None:
    model = tiny(name).eval()
    inputs = model.example_inputs(2)
    with torch.no_grad():
        answer = model(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(*inputs)
        half = model.bfloat16()(inputs[0].bfloat16(), *inputs[1:])
    assert half.dtype == torch.bfloat16
    for found in (mixed, half):
        assert float((found.float() - answer).abs().max()) < 0.1 * float(answer.abs().max())


@every
def test_the_artefact_gives_bit_equal_answers(name: str, tmp_path: Path) -> None:
    model = tiny(name).eval()
    classes = tuple("abcde") if model.num_classes else ()
    Artefact(model, classes, Preprocess(size=(32, 32))).save_pretrained(tmp_path)
    again = load_artefact(tmp_path).model
    inputs = model.example_inputs(2)
    assert type(again) is type(model) and again.config == model.config
    with torch.no_grad():
        assert torch.equal(again(*inputs), model(*inputs))


@every
def test_feature_maps_are_those_of_the_encoder_with_all_patches(name: str) -> None:
    model = tiny(name).eval()
    images = model.example_inputs(2)[0]
    grid = (4, 4) if name.startswith("mae") else (2, 4, 4)
    with torch.no_grad():
        maps = model.feature_maps(images)
    assert [tuple(found.shape) for found in maps] == [(2, 16, *grid)] * 2
    encoder = model.encoder if isinstance(model, Autoencoder) else model
    assert isinstance(encoder, VisionTransformer | VideoTransformer)
    with torch.no_grad():
        assert torch.equal(maps[-1], encoder.features(images).feature_map())


@every
def test_attention_can_be_recorded_in_encoder_and_decoder(name: str) -> None:
    model = tiny(name).eval()
    inputs = model.example_inputs(2)
    with record(model, queries=None) as attention, torch.no_grad():
        model(*inputs)
    grid = (4, 4) if name.startswith("mae") else (2, 4, 4)
    assert attention.layers == ((0, 1) if name.startswith("videomae") else (0, 1, 2))
    for layer in attention.layers:
        weights = attention[layer].weights
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert attention[layer].grid == grid
        assert (attention[layer].keep is not None) == (len(inputs) == 2 and layer < 2)


@every
def test_every_parameter_has_a_role(name: str) -> None:
    model = tiny(name)
    roles = model.roles()
    parameters = dict(model.named_parameters())
    assert roles.keys() == parameters.keys()
    undecayed = {n for n, role in roles.items() if not role.decay}
    tables = {n for n in parameters if n.endswith(("cls_token", "mask_token", "pos_embed"))}
    assert undecayed == {n for n, p in parameters.items() if p.ndim == 1} | tables
    depths = {n.split(".")[0]: role.depth for n, role in roles.items() if n.startswith(("decoder", "head"))}
    assert set(depths.values()) == {3}
    prefix = "encoder." if isinstance(model, Autoencoder) else ""
    assert roles[f"{prefix}patch_embed.proj.weight"].depth == 0 and roles[f"{prefix}blocks.1.mlp.fc1.weight"].depth == 2


@autoencoders
def test_the_encoder_never_sees_what_is_hidden(name: str) -> None:
    model = autoencoder(name).eval()
    images, keep = model.example_inputs(2)
    targets = model.targets(images, normalise=False)
    hidden = mask_of(keep, targets.shape[1])
    assert 0.7 < float(hidden.float().mean()) < 0.95
    noise = torch.where(hidden.unsqueeze(-1), torch.randn_like(targets), targets)
    grid = model.encoder.embed(images).grid
    other = unpatchify(noise, grid, model.patch)
    assert not torch.equal(other, images)
    with torch.no_grad():
        assert torch.equal(model(other, keep), model(images, keep))
        assert not torch.equal(model(images), model(images, keep))
        assert model.encoder.embed(images, keep=keep).values.shape[1] < 16


@autoencoders
def test_training_brings_the_error_down(name: str) -> None:
    torch.manual_seed(0)
    model = build(config_of(name, TINY[name]))
    assert isinstance(model, Autoencoder)
    images, keep = model.example_inputs(4)
    images = torch.linspace(0, 20, images[0].numel()).sin().view_as(images[0]).expand_as(images)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    errors = []
    for _ in range(40):
        loss = masked_error(model(images, keep), model.targets(images), keep)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(loss.item())
    assert errors[-1] < 0.5 * errors[0]


def test_initialised_as_published() -> None:
    made = build(config_of("mae_vit_base_patch16_224", {"depth": 1, "decoder_depth": 1}))
    assert isinstance(made, MaskedAutoencoder)
    for weight, bound in (
        (made.encoder.patch_embed.proj.weight, (6 / (768 + 768)) ** 0.5),
        (made.decoder.blocks[0].attn.qkv.weight, (6 / (512 + 3 * 512)) ** 0.5),
    ):
        assert 0.95 * bound < float(weight.detach().abs().max()) <= bound
    assert made.encoder.cls_token is not None
    for token in (made.encoder.cls_token, made.decoder.mask_token):
        assert 0.015 < float(token.detach().std()) < 0.025
    clip = build(config_of("pretrain_videomae_small_patch16_224", {"depth": 1, "decoder_depth": 1}))
    assert isinstance(clip, MaskedVideoAutoencoder)
    bound = (6 / (384 + 3 * 384)) ** 0.5
    assert 0.95 * bound < float(clip.encoder.blocks[0].attn.qkv.weight.detach().abs().max()) <= bound
    assert not clip.encoder.blocks[0].attn.qkv.q_bias.any()


def test_pictures_of_another_size_get_resized_positions_in_encoder_and_decoder() -> None:
    model = tiny("mae_vit_base_patch16_224").eval()
    assert model(torch.randn(1, 3, 40, 16)).shape == (1, 10, 192)
    with pytest.raises(VitrailError, match="height 33 is not a multiple of the patch size 8"):
        model(torch.randn(1, 3, 33, 32))


@pytest.mark.parametrize("name", ["videomae_base_patch16_224", "pretrain_videomae_base_patch16_224"])
def test_clips_of_another_size_are_refused_with_the_one_that_works(name: str) -> None:
    model = tiny(name)
    with pytest.raises(VitrailError, match=r"clip of 8×32×32 .* this model takes 4×32×32"):
        model(torch.randn(1, 3, 8, 32, 32))
    with pytest.raises(VitrailError, match="clip frames 5 is not a multiple of 2: use 6"):
        model(torch.randn(1, 3, 5, 32, 32))
    with pytest.raises(VitrailError, match="a picture is no clip"):
        model(torch.randn(1, 3, 32, 32))
    with pytest.raises(VitrailError, match=r"2×8×8 .* do not divide clips of 4×36×32.* 4×40×32"):
        tiny(name, img_size=(36, 32))
    wide = tiny(name, img_size=(16, 40), frames=6).eval()
    assert wide(torch.randn(1, 3, 6, 16, 40)).shape[0] == 1


def test_numbers_that_make_no_autoencoder_are_refused() -> None:
    with pytest.raises(VitrailError, match="no classes"):
        config_of("mae_vit_base_patch16_224", {"num_classes": 10})
    with pytest.raises(VitrailError, match="decoder_embed_dim 12 is not divisible by decoder_num_heads 5"):
        config_of("mae_vit_base_patch16_224", {"decoder_embed_dim": 12, "decoder_num_heads": 5})
    with pytest.raises(VitrailError, match="embed_dim 10 is not divisible by num_heads 3"):
        config_of("pretrain_videomae_base_patch16_224", {"embed_dim": 10, "num_heads": 3})


def test_a_video_classifier_gets_another_head() -> None:
    model = create_model("videomae_small_patch16_224", **{**TINY["videomae_base_patch16_224"], "num_classes": 3})
    assert isinstance(model, VideoTransformer)
    model.reset_classifier(7)
    assert model(*model.example_inputs(2)).shape == (2, 7) and model.config.num_classes == 7
    dropping = tiny("videomae_base_patch16_224", drop_path=0.5, dropout=0.1)
    clips = dropping.example_inputs(4)[0]
    assert not torch.equal(dropping(clips), dropping(clips))
