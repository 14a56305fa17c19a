"""SAM and its encoder, besides what holds for every family: counts, sizes, prompts, recording, refusals."""

from __future__ import annotations

import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.explanations import record
from vitrail.models import MODELS, Sam, SamConfig, SamEncoder, build, config_of

from .tiny_sam import TINY

COUNTS = {
    "sam_vit_base_patch16": 93_735_472,
    "sam_vit_large_patch16": 312_342_832,
    "sam_vit_huge_patch16": 641_090_608,
    "samvit_base_patch16": 89_670_912,
    "samvit_large_patch16": 308_278_272,
    "samvit_huge_patch16": 637_026_048,
}
"""The papers' models; the encoders alone as timm counts them."""
every = pytest.mark.parametrize("name", TINY)


def tiny(name: str, **options: object) -> Sam | SamEncoder:
    torch.manual_seed(0)
    model = build(config_of(name, {**TINY[name], **options}))
    assert isinstance(model, Sam | SamEncoder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def first(answer: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return answer if isinstance(answer, torch.Tensor) else answer[0]


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_of_the_published_sizes(name: str) -> None:
    with torch.device("meta"):
        model = build(MODELS[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", [name for name in COUNTS if name.startswith("samvit")])
def test_timm_counts_the_same_encoders(name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[name]


@every
def test_a_batch_trains_every_parameter(name: str) -> None:
    model = tiny(name)
    images, *prompts = model.example_inputs(2)
    if isinstance(model, Sam):
        boxes = torch.tensor([[[4.0, 5.0, 40.0, 50.0]]]).expand(2, 1, 4)
        masks = torch.randn(2, 1, 16, 16)
        labels = torch.tensor([[[1]], [[0]]])
        alone, iou = model(images, prompts[0], labels)
        both, quality = model(images, None, None, boxes, masks, multimask=False)
        loss = alone.square().mean() + both.square().mean() + iou.square().mean() + quality.square().mean()
    else:
        loss = model(images).square().mean()
    loss.backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@every
@pytest.mark.parametrize("size", [(64, 64), (32, 80), (48, 112)])
def test_other_sizes_work_and_features_stand_on_their_grid(name: str, size: tuple[int, int]) -> None:
    model = tiny(name).eval()
    inputs = model.example_inputs(1, size)
    grid = (size[0] // 16, size[1] // 16)
    with torch.no_grad():
        answer = first(model(*inputs))
        raw, neck = (model.feature_maps(inputs[0], norm=norm) for norm in (False, True))
        assert [tuple(m.shape) for m in raw] == [(1, 16, *grid)] * 2
        if isinstance(model, Sam):
            assert answer.shape == (1, 1, 3, 4 * grid[0], 4 * grid[1])
            torch.testing.assert_close(neck[-1], model.encode(inputs[0]))
        else:
            torch.testing.assert_close(neck[-1].mean(dim=(2, 3)), answer)
    assert bool(answer.isfinite().all())
    with pytest.raises(VitrailError, match="height 65 is not a multiple of the patch size 16"):
        model(torch.zeros(1, 3, 65, 64), *inputs[1:])


def test_attention_is_recorded_on_the_grid_with_rows_that_sum_to_one() -> None:
    model = tiny("sam_vit_base_patch16", window=2).eval()
    images, *prompts = model.example_inputs()
    with record(model, queries=(0, 3)) as attention, torch.no_grad():
        model(images, *prompts)
    assert attention.depth == 2 + 2 * 3 + 1
    for layer in attention.layers:
        sums = attention[layer].weights.sum(dim=-1)
        torch.testing.assert_close(sums, torch.ones_like(sums))
    assert [attention[layer].grid for layer in (0, 1)] == [(4, 4), (4, 4)]
    # Clicks reading the picture: eight queries see sixteen patches.
    assert attention[3].grid == (4, 4) and attention.maps(3).shape[-2:] == (4, 4)


def test_zeros_that_fill_a_window_take_their_share() -> None:
    """A grid of 4 in windows of 3: the last row and column stand among places without content."""
    model = tiny("samvit_base_patch16").eval()
    with record(model, layers=(0,), queries=((0, 0), (3, 3))) as attention, torch.no_grad():
        model(model.example_inputs()[0])
    inside, corner = attention[0].weights.sum(dim=-1)[0].T
    torch.testing.assert_close(inside, torch.ones_like(inside))
    assert (corner < 1).all()


@every
def test_roles_name_every_parameter(name: str) -> None:
    model = tiny(name)
    roles = model.roles()
    assert roles.keys() == dict(model.named_parameters()).keys()
    prefix = "image_encoder." if isinstance(model, Sam) else ""
    assert roles[f"{prefix}patch_embed.proj.weight"].depth == 0
    assert roles[f"{prefix}blocks.1.mlp.fc1.weight"] == roles[f"{prefix}blocks.1.attn.qkv.weight"]
    assert roles[f"{prefix}blocks.1.mlp.fc1.weight"].depth == 2 and roles[f"{prefix}neck.0.weight"].depth == 3
    tables = [n for n, p in model.named_parameters() if p.ndim > 1 and not roles[n].decay]
    ends = {name.split(".")[-1] for name in tables}
    heads = {"kinds", "no_mask", "iou_token", "mask_tokens"} if isinstance(model, Sam) else set()
    assert ends == {"pos_embed", "rel_pos_h", "rel_pos_w"} | heads


def test_classifier_on_the_encoder() -> None:
    model = tiny("samvit_base_patch16", num_classes=3)
    assert isinstance(model, SamEncoder)
    assert model(model.example_inputs(2)[0]).shape == (2, 3)
    model.set_classifier(torch.ones(3, 16), torch.zeros(3))
    assert model.head.weight.eq(1).all()
    model.reset_classifier(0)
    assert model(model.example_inputs(2)[0]).shape == (2, 16) and model.config.num_classes == 0
    with pytest.raises(VitrailError, match="does not fit"):
        model.set_classifier(torch.ones(3, 16), torch.zeros(3))


def test_prompts_that_make_no_sense_are_refused() -> None:
    model = tiny("sam_vit_base_patch16")
    embedding = model.encode(model.example_inputs()[0])
    with pytest.raises(VitrailError, match="there is no prompt"):
        model.decode(embedding)
    with pytest.raises(VitrailError, match="belong together"):
        model.decode(embedding, points=torch.zeros(1, 1, 1, 2))
    with pytest.raises(VitrailError, match=r"takes 16x16"):
        model.decode(embedding, masks=torch.zeros(1, 1, 8, 8))


def test_a_placeholder_says_nothing_of_its_place() -> None:
    """Prompts of different lengths in one batch: the shorter filled up with label -1 anywhere."""
    model = tiny("sam_vit_base_patch16").eval()
    embedding = model.encode(model.example_inputs()[0])
    labels = torch.tensor([[[1, -1]]])
    click = torch.tensor([20.0, 30.0])
    answers = [
        model.decode(embedding, torch.stack([click, place])[None, None], labels)[0]
        for place in torch.tensor([[0.0, 0.0], [50.0, 9.0]])
    ]
    assert torch.equal(*answers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_size": 70}, "use 64x64"),
        ({"global_blocks": (7,)}, "does not have"),
        ({"num_classes": 3}, "names no classes"),
        ({"neck_dim": 24, "decoder_heads": 8}, "neck_dim 24"),
        ({"embed_dim": 15}, "not divisible"),
        ({"window": 0}, "at least 1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(VitrailError, match=message):
        config_of("sam_vit_base_patch16", {**TINY["sam_vit_base_patch16"], **options})


def test_the_encoders_config_is_its_part() -> None:
    config = SamConfig(embed_dim=32, num_heads=2)
    assert config.encoder.embed_dim == 32 and type(config.encoder) is not SamConfig
