"""Transformers' VideoMAE as the oracle: classifier, encoder, and pretraining with the same mask."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from vitrail.heads.pixels import masked_error
from vitrail.models import MaskedVideoAutoencoder, VideoTransformer
from vitrail.nn.masking import keep_of, tube_keep
from vitrail.nn.masking import mask_of as hidden_of
from vitrail.nn.position import sincos_interleaved
from vitrail.nn.tokens import take_patches
from vitrail.weights import load_checkpoint

from .peers import assert_same, perturb, save

transformers = pytest.importorskip("transformers")

SIZES = [(4, 32, 32), (6, 32, 64), (2, 48, 16)]
"""Frames, height and width."""
CLASSIFIER = {
    "patch_embed.proj.weight": "videomae.embeddings.patch_embeddings.projection.weight",
    "blocks.0.attn.qkv.q_bias": "videomae.encoder.layer.0.attention.attention.query.bias",
    "blocks.1.attn.qkv.v_bias": "videomae.encoder.layer.1.attention.attention.value.bias",
    "blocks.1.mlp.fc2.weight": "videomae.encoder.layer.1.output.dense.weight",
    "fc_norm.weight": "fc_norm.weight",
    "head.weight": "classifier.weight",
}
PRETRAINING = {
    "encoder.patch_embed.proj.weight": "videomae.embeddings.patch_embeddings.projection.weight",
    "encoder.norm.weight": "videomae.layernorm.weight",
    "decoder.embed.weight": "encoder_to_decoder.weight",
    "decoder.mask_token": "mask_token",
    "decoder.blocks.0.attn.qkv.v_bias": "decoder.decoder_layers.0.attention.attention.value.bias",
    "decoder.norm.bias": "decoder.norm.bias",
    "decoder.pred.weight": "decoder.head.weight",
}


def peer(kind: str, size: tuple[int, int, int] = SIZES[0], **options: object) -> nn.Module:
    frames, height, width = size
    config = transformers.VideoMAEConfig(
        **{
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 96,
            "image_size": height if height == width else [height, width],
            "patch_size": 8,
            "num_frames": frames,
            "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 64,
            "layer_norm_eps": 1e-6,
            "num_labels": 5,
            "use_mean_pooling": kind == "VideoMAEForVideoClassification",
            **options,
        }
    )
    return perturb(getattr(transformers, kind)(config))


def clips(frames: int, height: int, width: int) -> Tensor:
    return torch.randn(2, 3, frames, height, width, generator=torch.Generator().manual_seed(7))


def theirs_of(clip: Tensor) -> Tensor:
    """Transformers has the frames before the bands."""
    return clip.transpose(1, 2)


@pytest.mark.parametrize("size", SIZES)
def test_logits_and_gradients_of_the_classifier_equal_transformers(size: tuple, tmp_path: Path) -> None:
    theirs = peer("VideoMAEForVideoClassification", size)
    theirs.save_pretrained(tmp_path)
    ours = load_checkpoint(tmp_path).model
    assert isinstance(ours, VideoTransformer)
    assert ours.config.pool_norm_eps == 1e-5 and ours.config.norm_eps == 1e-6
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    ours_named, theirs_named = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert_same(
        ours,
        lambda x: theirs(theirs_of(x)).logits,
        clips(*size),
        {name: ours_named[name] for name in CLASSIFIER},
        {name: theirs_named[other] for name, other in CLASSIFIER.items()},
    )


@pytest.mark.parametrize("size", SIZES)
def test_tokens_of_the_encoder_equal_transformers(size: tuple, tmp_path: Path) -> None:
    theirs = peer("VideoMAEModel", size)
    theirs.save_pretrained(tmp_path)
    ours = load_checkpoint(tmp_path).model
    assert isinstance(ours, VideoTransformer) and not ours.config.pool_norm
    with torch.no_grad():
        expected = theirs(theirs_of(clips(*size)), output_hidden_states=True)
        features = ours.features(clips(*size))
        taps = ours.intermediates(clips(*size), [0, 1], norm=False)
    torch.testing.assert_close(features.values, expected.last_hidden_state, atol=1e-4, rtol=0)
    for tap, hidden in zip(taps, expected.hidden_states[1:], strict=True):
        torch.testing.assert_close(tap.values, hidden, atol=1e-4, rtol=1e-5)
    assert features.feature_map().shape == (2, 48, size[0] // 2, size[1] // 8, size[2] // 8)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_predictions_and_loss_of_pretraining_equal_transformers(size: tuple, normalised: bool, tmp_path: Path) -> None:
    theirs = peer("VideoMAEForPreTraining", size, norm_pix_loss=normalised)
    theirs.save_pretrained(tmp_path)
    ours = load_checkpoint(tmp_path).model
    assert isinstance(ours, MaskedVideoAutoencoder)
    grid = (size[0] // 2, size[1] // 8, size[2] // 8)
    keep = tube_keep(2, grid, 0.75, torch.Generator().manual_seed(1))
    mask = hidden_of(keep, grid[0] * grid[1] * grid[2])
    hidden = keep_of(~mask)
    ours_named, theirs_named = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert_same(
        lambda x: take_patches(ours(x, keep), hidden),
        lambda x: theirs(theirs_of(x), bool_masked_pos=mask).logits,
        clips(*size),
        {name: ours_named[name] for name in PRETRAINING},
        {name: theirs_named[other] for name, other in PRETRAINING.items()},
    )
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = theirs(theirs_of(clips(*size)), bool_masked_pos=mask).loss
        targets = ours.targets(clips(*size) * std + mean, normalise=normalised)
        found = masked_error(ours(clips(*size), keep), targets, keep)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_positions_of_the_published_size_equal_transformers() -> None:
    from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

    torch.testing.assert_close(sincos_interleaved(96, 1568), get_sinusoid_encoding_table(1568, 96), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["VideoMAEForVideoClassification", "VideoMAEForPreTraining", "VideoMAEModel"])
def test_names_of_modules_in_memory_read_as_those_of_files(kind: str, tmp_path: Path) -> None:
    one_head = {"hidden_size": 64, "num_attention_heads": 1, "decoder_hidden_size": 64}
    theirs = peer(kind, **one_head, decoder_num_attention_heads=1)
    theirs.save_pretrained(tmp_path / "hub")
    from_files = load_checkpoint(tmp_path / "hub").model.state_dict()
    in_memory = load_checkpoint(save(theirs, tmp_path / "memory" / "model.safetensors"))
    assert in_memory.model.state_dict().keys() == from_files.keys()
    for name, tensor in in_memory.model.state_dict().items():
        assert torch.equal(tensor, from_files[name]), name
    assert any("16 frames of 224" in note for note in in_memory.account.notes)
