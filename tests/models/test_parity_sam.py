"""SAM against Transformers, the authors' own package and timm: embeddings, features, masks, quality, gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vitrail.models import Sam, SamEncoder
from vitrail.weights import load_checkpoint

from .peers import TOLERANCE, assert_same, pictures, save
from .peers_sam import authors_sam, load_sam, save_pth, timm_encoder, transformers_sam

pytest.importorskip("transformers")
pytest.importorskip("timm")
pytest.importorskip("segment_anything")


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float(theirs.abs().max()) > 0.05, "an oracle that answers nothing proves nothing"
    difference = float((ours - theirs).abs().max())
    print(f"max difference {difference:.2g}")
    assert difference <= TOLERANCE


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Sam]:
    theirs = transformers_sam()
    folder = tmp_path_factory.mktemp("hub")
    theirs.save_pretrained(folder)
    return theirs, load_sam(folder)


@pytest.mark.parametrize("size", [64, 112])
def test_embedding_and_every_block_equal_transformers(size: int, tmp_path: Path) -> None:
    theirs = transformers_sam(size)
    theirs.save_pretrained(tmp_path)
    ours = load_sam(tmp_path)
    images = pictures(size, size)
    with torch.no_grad():
        expected = theirs.vision_encoder(images, output_hidden_states=True)
        assert_near(ours.encode(images), expected.last_hidden_state)
        taps = ours.intermediates(images, range(3), norm=False)
    for tap, state in zip(taps, expected.hidden_states[1:], strict=True):
        assert_near(tap.values.unflatten(1, tap.grid), state)


@pytest.mark.parametrize("grid", [(4, 4), (4, 7), (5, 3)])
def test_embedding_and_every_block_equal_the_authors(grid: tuple[int, int], tmp_path: Path) -> None:
    theirs = authors_sam(grid)
    ours = load_sam(save_pth(theirs, tmp_path / "sam.pth"))
    assert ours.config.img_size == (64 if grid == (4, 4) else (16 * grid[0], 16 * grid[1]))
    images = pictures(16 * grid[0], 16 * grid[1])
    seen: list[Tensor] = []
    for block in theirs.image_encoder.blocks:
        block.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        assert_near(ours.encode(images), theirs.image_encoder(images))
        taps = ours.intermediates(images, range(3), norm=False)
    for tap, state in zip(taps, seen, strict=True):
        assert_near(tap.values.unflatten(1, tap.grid), state)


@pytest.mark.parametrize("size", [(64, 64), (64, 112), (32, 80)])
def test_encoder_alone_equals_timm_at_any_size(size: tuple[int, int], tmp_path: Path) -> None:
    theirs = timm_encoder()
    ours = load_checkpoint(save(theirs, tmp_path / "samvit.safetensors")).model
    assert isinstance(ours, SamEncoder)
    images = pictures(*size)
    with torch.no_grad():
        assert_near(ours.features(images).feature_map(), theirs.forward_features(images))
        assert_near(ours(images), theirs(images))
        for norm in (True, False):
            maps = ours.feature_maps(images, norm=norm)
            expected = theirs.forward_intermediates(images, norm=norm, intermediates_only=True)
            for one, other in zip(maps, expected, strict=True):
                assert_near(one, other)


def test_classifier_on_the_encoder_equals_timm(tmp_path: Path) -> None:
    theirs = timm_encoder(num_classes=5)
    ours = load_checkpoint(save(theirs, tmp_path / "samvit.safetensors")).model
    parameters = {"pos_embed": ours.pos_embed, "rel": ours.blocks[0].attn.mixer.position_bias.rel_pos_w}
    expected = {"pos_embed": theirs.pos_embed, "rel": theirs.blocks[0].attn.rel_pos_w}
    assert_same(ours, theirs, pictures(64, 64), parameters, expected)


PROMPTS: dict[str, tuple[int, bool, bool]] = {
    "one_point": (1, False, False),
    "points": (3, False, False),
    "box": (0, True, False),
    "points_and_box": (2, True, False),
    "mask": (0, False, True),
    "point_and_mask": (1, False, True),
    "all": (2, True, True),
}
"""Points, whether there is a box, whether there is a mask."""


def prompts(case: str, count: int, height: int, width: int, batch: int = 1) -> dict[str, Tensor]:
    """``count`` prompts for each of ``batch`` pictures of that size."""
    number, box, mask = PROMPTS[case]
    size = torch.tensor([width, height])
    found: dict[str, Tensor] = {}
    if number:
        found["points"] = random(batch, count, number, 2) * size
        found["labels"] = torch.tensor([1, 0, -1])[:number].expand(batch, count, -1)
    if box:
        corners = (random(batch, count, 2, 2, seed=1) * size).sort(dim=2).values
        found["boxes"] = corners.flatten(2)
    if mask:
        found["masks"] = 4 * random(batch, count, height // 4, width // 4, seed=2) - 2
    return found


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("case", PROMPTS)
def test_masks_and_quality_equal_transformers(case: str, multimask: bool, hf: tuple[nn.Module, Sam]) -> None:
    theirs, ours = hf
    count = 1 if PROMPTS[case][2] else 3  # Theirs take one mask for all prompts of a picture.
    given = prompts(case, count, 64, 64, batch=2)
    names = {"points": "input_points", "labels": "input_labels", "boxes": "input_boxes", "masks": "input_masks"}
    images = pictures(64, 64)
    with torch.no_grad():
        expected = theirs(images, multimask_output=multimask, **{names[name]: v for name, v in given.items()})
        masks, iou = ours(images, **given, multimask=multimask)
    assert masks.shape == (2, count, 3 if multimask else 1, 16, 16)
    assert_near(masks, expected.pred_masks)
    assert_near(iou, expected.iou_scores)


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("case", PROMPTS)
@pytest.mark.parametrize("grid", [(4, 4), (4, 6)])
def test_masks_and_quality_equal_the_authors(case: str, multimask: bool, grid: tuple[int, int], tmp_path: Path) -> None:
    theirs = authors_sam(grid)
    ours = load_sam(save_pth(theirs, tmp_path / "sam.pth"))
    height, width = 16 * grid[0], 16 * grid[1]
    given = prompts(case, 3, height, width)
    images = pictures(height, width, batch=1)
    with torch.no_grad():
        points = (given["points"][0], given["labels"][0]) if "points" in given else None
        sparse, dense = theirs.prompt_encoder(
            points=points,
            boxes=given["boxes"][0] if "boxes" in given else None,
            masks=given["masks"][0].unsqueeze(1) if "masks" in given else None,
        )
        expected, quality = theirs.mask_decoder(
            image_embeddings=theirs.image_encoder(images),
            image_pe=theirs.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
        masks, iou = ours(images, **given, multimask=multimask)
    assert_near(masks[0], expected)
    assert_near(iou[0], quality)


def test_gradients_of_masks_equal_transformers(hf: tuple[nn.Module, Sam]) -> None:
    theirs, ours = hf
    given = prompts("points_and_box", 2, 64, 64, batch=2)
    block, other = ours.mask_decoder.transformer.blocks[1], theirs.mask_decoder.transformer.layers[1]
    assert_same(
        lambda images: ours(images, **given)[0],
        lambda images: theirs(images, **{f"input_{name}": v for name, v in given.items()}).pred_masks,
        pictures(64, 64),
        {
            "rel": ours.image_encoder.blocks[1].attn.position_bias.rel_pos_h,
            "patch": ours.image_encoder.patch_embed.proj.weight,
            "query": block.query_attn.v.weight,
            "no_mask": ours.prompt_encoder.no_mask,
        },
        {
            "rel": theirs.vision_encoder.layers[1].attn.rel_pos_h,
            "patch": theirs.vision_encoder.patch_embed.projection.weight,
            "query": other.cross_attn_image_to_token.v_proj.weight,
            "no_mask": theirs.prompt_encoder.no_mask_embed.weight,
        },
    )


def test_many_prompts_of_one_embedding_equal_one_at_a_time(hf: tuple[nn.Module, Sam]) -> None:
    ours = hf[1]
    given = prompts("points_and_box", 4, 64, 64, batch=2)
    with torch.no_grad():
        embedding = ours.encode(pictures(64, 64))
        masks, iou = ours.decode(embedding, **given)
        for picture in range(2):
            for prompt in range(4):
                alone = {name: v[picture : picture + 1, prompt : prompt + 1] for name, v in given.items()}
                mask, quality = ours.decode(embedding[picture : picture + 1], **alone)
                torch.testing.assert_close(mask[0, 0], masks[picture, prompt], atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(quality[0, 0], iou[picture, prompt], atol=1e-5, rtol=1e-4)
