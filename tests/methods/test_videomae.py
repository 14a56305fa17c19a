"""VideoMAE held to Transformers: loss and gradients with the same tubes and converted weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.data.finished import finished
from tests.models.test_parity_videomae import PRETRAINING, SIZES, clips, peer, theirs_of
from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.data import Augment, ClipTransform, Preprocess
from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from vitrail.methods import TubeView, VideoMAE, VideoMAEOptions
from vitrail.models import MaskedVideoAutoencoder, VideoMAEConfig
from vitrail.nn.masking import mask_of, tube_keep
from vitrail.weights import load_checkpoint

START = Progress(0, 10, 0, 1)
TINY = VideoMAEConfig(
    img_size=16,
    patch_size=4,
    frames=4,
    embed_dim=24,
    depth=1,
    num_heads=2,
    decoder_embed_dim=16,
    decoder_depth=1,
    decoder_num_heads=2,
)


def batch(images: torch.Tensor, keep: torch.Tensor) -> Batch:
    return Batch(images, None, torch.arange(len(images)), tuple(map(str, range(len(images)))), {"keep": keep})


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_loss_and_gradients_equal_transformers(size: tuple[int, int, int], normalised: bool, tmp_path: Path) -> None:
    theirs = peer("VideoMAEForPreTraining", size, norm_pix_loss=normalised)
    theirs.save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path).model
    assert isinstance(model, MaskedVideoAutoencoder)
    trained = VideoMAE(model, IMAGENET_MEAN, IMAGENET_STD, normalised)
    grid = (size[0] // 2, size[1] // 8, size[2] // 8)
    keep = tube_keep(2, grid, 0.75, torch.Generator().manual_seed(1))
    found = trained(batch(clips(*size), keep), START)["loss"]
    expected = theirs(theirs_of(clips(*size)), bool_masked_pos=mask_of(keep, grid[0] * grid[1] * grid[2])).loss
    assert abs(found.item() - expected.item()) <= 1e-4 * max(1.0, expected.item())
    ours_named, theirs_named = dict(model.named_parameters()), dict(theirs.named_parameters())
    ours = torch.autograd.grad(found, [ours_named[name] for name in PRETRAINING])
    wanted = torch.autograd.grad(expected, [theirs_named[name] for name in PRETRAINING.values()])
    for name, grad, other in zip(PRETRAINING, ours, wanted, strict=True):
        difference = ((grad - other.reshape(grad.shape)).norm() / other.norm()).item()
        assert difference <= 1e-4, f"gradient of {name} differs by {difference} of its length"


def test_a_view_hides_nine_tenths_in_tubes() -> None:
    pixels = torch.randint(256, (4, 3, 20, 24), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    preprocess = Preprocess(size=(40, 40))
    view = TubeView(ClipTransform(preprocess, Augment(randaugment=None, erasing=0.0)), (2, 10, 10), 0.9)
    torch.manual_seed(0)
    sample = finished(view(pixels))
    assert sample["images"].shape == (3, 4, 40, 40)
    keep = sample["keep"].view(2, 10)
    assert torch.equal(keep[0] + 100, keep[1]) and len(keep[0].unique()) == 10
    torch.manual_seed(0)
    assert torch.equal(view(pixels)["keep"], sample["keep"])
    assert not torch.equal(view(pixels)["keep"], sample["keep"])


def moving_squares(count: int) -> torch.Tensor:
    """A light square that moves by a pixel a frame over a dark ground: what is hidden can be known."""
    generator = torch.Generator().manual_seed(0)
    found = torch.full((count, 3, 4, 16, 16), -1.0)
    for clip in found:
        top, left = torch.randint(9, (2,), generator=generator).tolist()
        for t in range(4):
            clip[:, t, top + t : top + t + 4, left + t : left + t + 4] = 1.0
    return found


def test_it_learns_to_fill_in_what_moves_and_keeps_the_encoder_alone() -> None:
    torch.manual_seed(0)
    trained = VideoMAE(MaskedVideoAutoencoder(TINY), IMAGENET_MEAN, IMAGENET_STD, normalise=False)
    optimiser = torch.optim.AdamW(trained.parameters(), lr=4e-3)
    images, losses = moving_squares(16), []
    for _ in range(60):
        keep = tube_keep(16, (2, 4, 4), 0.5)
        optimiser.zero_grad()
        loss = trained(batch(images, keep), START)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
    assert trained.export() is trained.model.encoder
    assert set(trained.roles()) == {name for name, _ in trained.named_parameters()}
    assert not any(name in ("mean", "std") for name in trained.state_dict())


def test_a_frozen_frame_normalised_or_not_is_predicted_without_nan() -> None:
    trained = VideoMAE(MaskedVideoAutoencoder(TINY), IMAGENET_MEAN, IMAGENET_STD)
    loss = trained(batch(torch.zeros(2, 3, 4, 16, 16), tube_keep(2, (2, 4, 4), 0.9)), START)["loss"]
    assert torch.isfinite(loss)


def test_what_means_nothing_is_refused() -> None:
    trained = VideoMAE(MaskedVideoAutoencoder(TINY), IMAGENET_MEAN, IMAGENET_STD)
    plain = batch(moving_squares(1), torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(VitrailError, match="TubeView"):
        trained(Batch(plain.images, None, plain.indices, plain.names), START)
    with pytest.raises(VitrailError, match=r"between 0 and 1, not 1\.0"):
        VideoMAEOptions(mask_ratio=1.0)
    with pytest.raises(VitrailError, match="at least 1, not 0"):
        VideoMAEOptions(stride=0)
