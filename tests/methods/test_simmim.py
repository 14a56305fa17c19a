"""SimMIM: its masks are whole squares, its loss is over the hidden pixels alone."""

from __future__ import annotations

import pytest
import torch

from vitrail.contracts import Batch, Progress, VitrailError
from vitrail.heads.pixels import patchify
from vitrail.methods.simmim import MASK, SimMIM, SimMIMOptions, SquaresView, draw_squares
from vitrail.models import VisionTransformer, ViTConfig


def model(**changes: object) -> VisionTransformer:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}
    return VisionTransformer(ViTConfig(**{**sizes, "mask_token": True, **changes}))


def test_squares_are_whole_and_as_many_as_asked_for() -> None:
    torch.manual_seed(0)
    mask = draw_squares((8, 8), (2, 2), 0.6).view(4, 2, 4, 2)
    squares = mask.float().mean(dim=(1, 3))
    assert set(squares.flatten().tolist()) == {0.0, 1.0}
    assert int(squares.sum()) == 10  # 9.6, rounded up
    assert draw_squares((3, 5), (2, 2), 0.5).shape == (15,)


@pytest.mark.parametrize(("side", "ratio", "hidden"), [(7, 0.6, 30), (6, 0.6, 22), (10, 0.55, 55), (5, 0.6, 15)])
def test_shares_of_squares_are_rounded_up_as_the_authors_do(side: int, ratio: float, hidden: int) -> None:
    assert int(draw_squares((side, side), (1, 1), ratio).sum()) == hidden


def test_the_loss_is_the_error_of_hidden_pixels() -> None:
    torch.manual_seed(0)
    method, images = SimMIM(model()).eval(), torch.randn(2, 3, 32, 32)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, [1, 2]] = mask[1, [7, 8]] = True
    batch = Batch(images, None, torch.arange(2), (), {MASK: mask})
    found = method(batch, Progress(0, 1, 0, 1))["loss"]
    embedded = method.model.embed(images, mask=mask)
    predicted = method.head(method.model.encode(embedded).patches)
    expected = (predicted - patchify(images, (8, 8)))[mask].abs().mean()
    torch.testing.assert_close(found, expected)
    found.backward()
    assert method.model.mask_token is not None and method.model.mask_token.grad is not None
    learnt = {name for name, p in method.named_parameters() if p.requires_grad and p.grad is not None}
    assert method.roles().keys() >= learnt


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(VitrailError, match="mask_token=True"):
        SimMIM(model(mask_token=False))
    with pytest.raises(VitrailError, match=r"patch_drop=0\.5 would leave out masked patches"):
        SimMIM(model(patch_drop=0.5))
    with pytest.raises(VitrailError, match="square=12 is not a multiple of the patch size 8"):
        SquaresView(torch.Tensor.float, (4, 4), (8, 8), SimMIMOptions(square=12))
    with pytest.raises(VitrailError, match="SquaresView"):
        SimMIM(model())(Batch(torch.randn(1, 3, 32, 32), None, torch.arange(1), ()), Progress(0, 1, 0, 1))
