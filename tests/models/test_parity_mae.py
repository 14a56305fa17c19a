"""Transformers' ViTMAE as the oracle: the same mask, then predictions, losses, tokens and gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vitrail.heads.pixels import masked_error
from vitrail.models import MaskedAutoencoder, VisionTransformer
from vitrail.nn.position import resize_bicubic, resize_positions
from vitrail.weights import create_model, load_checkpoint

from .peers import assert_same, perturb, pictures, save

transformers = pytest.importorskip("transformers")

NAMES = {
    "encoder.patch_embed.proj.weight": "vit.embeddings.patch_embeddings.projection.weight",
    "encoder.cls_token": "vit.embeddings.cls_token",
    "encoder.blocks.0.attn.proj.weight": "vit.layers.0.attention.o_proj.weight",
    "encoder.norm.bias": "vit.layernorm.bias",
    "decoder.mask_token": "decoder.mask_token",
    "decoder.embed.weight": "decoder.decoder_embed.weight",
    "decoder.blocks.1.mlp.fc1.weight": "decoder.decoder_layers.1.mlp.fc1.weight",
    "decoder.pred.bias": "decoder.decoder_pred.bias",
}


def peer(kind: str = "ViTMAEForPreTraining", **options: object) -> nn.Module:
    config = transformers.ViTMAEConfig(
        **{
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 96,
            "image_size": 64,
            "patch_size": 16,
            "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 64,
            "layer_norm_eps": 1e-6,
            **options,
        }
    )
    return perturb(getattr(transformers, kind)(config))


def load(theirs: nn.Module, folder: Path) -> MaskedAutoencoder:
    theirs.save_pretrained(folder)
    ours = load_checkpoint(folder).model
    assert isinstance(ours, MaskedAutoencoder)
    return ours


def masks(count: int, kept: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Transformers' noise, and the places that it keeps."""
    noise = torch.rand(batch, count, generator=torch.Generator().manual_seed(5))
    return noise, noise.argsort(dim=1)[:, :kept]


def positions_on_the_grid(theirs: nn.Module, size: tuple[int, int]) -> None:
    """Let the oracle's decoder resize its positions on the grid, as its encoder does.

    Transformers stretches the decoder's table as one long row of patches, so that every patch but the first gets the
    position of another place. The tokens are compared here, not that.
    """
    old = theirs.config.image_size // theirs.config.patch_size
    grid = (size[0] // theirs.config.patch_size, size[1] // theirs.config.patch_size)
    table = resize_positions(theirs.decoder.decoder_pos_embed, (old, old), grid, resize_bicubic)
    theirs.decoder.interpolate_pos_encoding = lambda embeddings: table


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("options", [{}, {"image_size": 48, "patch_size": 8, "num_channels": 3, "mask_ratio": 0.5}])
def test_predictions_loss_and_gradients_equal_transformers(options: dict, normalised: bool, tmp_path: Path) -> None:
    theirs = peer(norm_pix_loss=normalised, **options)
    ours = load(theirs, tmp_path / "hub")
    assert ours.config.mask_ratio == theirs.config.mask_ratio
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    size = theirs.config.image_size
    count = (size // theirs.config.patch_size) ** 2
    noise, keep = masks(count, int(count * (1 - theirs.config.mask_ratio)))
    images = pictures(size, size)
    our_parameters, their_parameters = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert_same(
        lambda x: ours(x, keep),
        lambda x: theirs(x, noise=noise).logits,
        images,
        {name: our_parameters[name] for name in NAMES},
        {name: their_parameters[theirs_] for name, theirs_ in NAMES.items()},
    )
    with torch.no_grad():
        expected = theirs(images, noise=noise).loss
        found = masked_error(ours(images, keep), ours.targets(images, normalise=normalised), keep)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(96, 96), (48, 80), (32, 112)])
def test_other_sizes_equal_transformers(size: tuple[int, int], tmp_path: Path) -> None:
    theirs = peer()
    ours = load(theirs, tmp_path / "hub")
    positions_on_the_grid(theirs, size)
    count = size[0] * size[1] // 256
    noise, keep = masks(count, int(count * 0.25))
    images = pictures(*size)
    with torch.no_grad():
        expected = theirs(images, noise=noise, interpolate_pos_encoding=True)
        found = ours(images, keep)
        loss = masked_error(found, ours.targets(images, normalise=False), keep)
    assert float((found - expected.logits).abs().max()) <= 1e-4
    torch.testing.assert_close(loss, expected.loss, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_tokens_of_the_encoder_equal_transformers(size: tuple[int, int], tmp_path: Path) -> None:
    theirs = peer()
    ours = load(theirs, tmp_path / "hub")
    count = size[0] * size[1] // 256
    noise, keep = masks(count, int(count * 0.25))
    images = pictures(*size)
    with torch.no_grad():
        expected = theirs.vit(images, noise=noise, interpolate_pos_encoding=True, output_hidden_states=True)
        embedded = ours.encoder.embed(images, keep=keep)
        taps = ours.encoder.blocks.taps(embedded, [0, 1])
        found = ours.encoder.encode(embedded)
    assert embedded.values.shape[1] == 1 + int(count * 0.25), "hidden patches are never computed"
    torch.testing.assert_close(found.values, expected.last_hidden_state, atol=1e-4, rtol=0)
    for tap, hidden in zip([embedded, *taps], expected.hidden_states, strict=True):
        torch.testing.assert_close(tap.values, hidden, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("size", [(80, 80), (32, 112)])
def test_fresh_positions_equal_those_of_transformers(size: tuple[int, int]) -> None:
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

    ours = create_model("mae_vit_base_patch16_224", img_size=size, embed_dim=48, depth=1, num_heads=3, decoder_depth=1)
    assert isinstance(ours, MaskedAutoencoder)
    for found in (ours.encoder.pos_embed, ours.decoder_pos_embed):
        table = build_2d_sinusoidal_position_embedding(size[0] // 16, size[1] // 16, found.shape[-1], cls_token=True)
        rows, columns = table.chunk(2, dim=-1)
        # Transformers turns its table so when it fills a model: MAE's authors have the columns first.
        torch.testing.assert_close(found[0], torch.cat([columns, rows], dim=-1), atol=1e-6, rtol=0)


def test_names_of_modules_in_memory_read_as_those_of_files(tmp_path: Path) -> None:
    theirs = peer(hidden_size=64, num_attention_heads=1, decoder_hidden_size=64, decoder_num_attention_heads=1)
    from_files = load(theirs, tmp_path / "hub").state_dict()
    in_memory = load_checkpoint(save(theirs, tmp_path / "memory" / "model.safetensors")).model
    assert in_memory.state_dict().keys() == from_files.keys()
    for name, tensor in in_memory.state_dict().items():
        assert torch.equal(tensor, from_files[name]), name


def test_the_bare_encoder_of_transformers_is_a_vision_transformer(tmp_path: Path) -> None:
    theirs = peer("ViTMAEModel", mask_ratio=0.0)
    theirs.save_pretrained(tmp_path)
    ours = load_checkpoint(tmp_path).model
    assert isinstance(ours, VisionTransformer)
    noise, keep = masks(16, 16)
    with torch.no_grad():
        expected = theirs(pictures(64, 64), noise=noise).last_hidden_state
        found = ours.encode(ours.embed(pictures(64, 64), keep=keep)).values
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
