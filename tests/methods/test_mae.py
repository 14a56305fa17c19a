"""MAE as a method: Transformers as the oracle, and what may not matter to the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models.peers import pictures
from tests.models.test_parity_mae import NAMES, load, masks, peer
from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.heads.pixels import masked_error
from vitrail.methods.mae import KEEP, MAE, MAEOptions, MaskedView
from vitrail.models import MAEConfig, MaskedAutoencoder, VisionTransformer, ViTConfig
from vitrail.models.mae import around
from vitrail.nn.masking import dropped_of, mask_of

START = Progress(0, 1, 0, 1)


def batch_of(images: Tensor, keep: Tensor) -> Batch:
    return Batch(images, None, torch.arange(len(images)), (), {KEEP: keep})


def tiny(**options: object) -> MaskedAutoencoder:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    decoder = {"decoder_embed_dim": 8, "decoder_depth": 1, "decoder_num_heads": 2}
    return MaskedAutoencoder(MAEConfig(**{**sizes, **decoder, **options}))


@pytest.mark.parametrize("normalise", [True, False])
def test_loss_and_gradients_equal_those_of_transformers(normalise: bool, tmp_path: Path) -> None:
    theirs = peer(norm_pix_loss=normalise)
    method = MAE(load(theirs, tmp_path / "hub"), normalise).train()
    noise, keep = masks(16, 4)
    images = pictures(64, 64)
    expected = theirs(images, noise=noise).loss
    found = method(batch_of(images, keep), START)["loss"]
    assert abs(found.item() - expected.item()) <= 1e-4
    expected.backward()
    found.backward()
    ours, references = dict(method.model.named_parameters()), dict(theirs.named_parameters())
    for name, reference in NAMES.items():
        assert float((ours[name].grad - references[reference].grad).abs().max()) <= 1e-4, name


def test_the_order_of_the_visible_patches_does_not_matter() -> None:
    torch.manual_seed(0)
    method, images = MAE(tiny()), torch.randn(2, 3, 32, 32)
    keep = torch.tensor([[1, 7, 12, 3], [15, 0, 5, 9]])
    losses = [method(batch_of(images, order), START)["loss"] for order in (keep, keep.sort(dim=1).values)]
    torch.testing.assert_close(*losses)
    predicted = method.model(images, keep)
    torch.testing.assert_close(losses[0], masked_error(predicted, method.model.targets(images), keep))


def test_every_patch_is_either_seen_or_predicted() -> None:
    keep = torch.tensor([[3, 0], [4, 1]])
    dropped = dropped_of(keep, 5)
    assert dropped.tolist() == [[1, 2, 4], [0, 2, 3]]
    assert mask_of(keep, 5).gather(1, dropped).all()


def test_what_stands_in_a_hidden_patch_does_not_reach_the_prediction() -> None:
    torch.manual_seed(0)
    model, images = tiny().eval(), torch.randn(1, 3, 32, 32)
    keep = torch.tensor([[0, 5, 10, 15]])
    other = images.clone()
    other[:, :, :8, 8:16] += 3.0  # patch 1
    torch.testing.assert_close(model(images, keep), model(other, keep))


def test_a_view_is_masked_anew_for_every_sample_and_the_same_for_the_same_seed() -> None:
    view = MaskedView(lambda picture: picture.float(), (4, 4), 0.75)
    drawn = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        drawn.append(view(torch.zeros(3, 32, 32, dtype=torch.uint8))[KEEP].tolist())
    assert drawn[0] == drawn[2] != drawn[1]
    assert len(drawn[0]) == 4


@pytest.mark.parametrize("tokens", [{}, {"registers": 2}, {"class_token": False, "pool": "mean"}])
def test_any_vision_transformer_can_be_the_encoder(tokens: dict) -> None:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}
    options = MAEConfig(decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
    encoder = VisionTransformer(ViTConfig(**{**sizes, **tokens}))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    method = MAE(around(encoder, options))
    assert method.export() is encoder
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    method(batch_of(torch.randn(2, 3, 32, 32), torch.tensor([[0, 3, 8, 9]] * 2)), START)["loss"].backward()
    learnt = {name: p for name, p in method.named_parameters() if p.requires_grad}
    assert {name for name, p in learnt.items() if p.grad is None} == set()
    assert method.roles().keys() >= learnt.keys()


def test_what_cannot_work_is_refused() -> None:
    batch = Batch(torch.randn(1, 3, 32, 32), None, torch.arange(1), ())
    with pytest.raises(VitrailError, match="MaskedView"):
        MAE(tiny())(batch, START)
    with pytest.raises(VitrailError, match="mask_ratio must lie between 0 and 1, not 1"):
        MAEOptions(mask_ratio=1.0)
