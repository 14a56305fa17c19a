"""DETR: sizes, what is frozen, padding, the decoder's blocks, recording, and numbers that cannot be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from vitrail.contracts import VitrailError
from vitrail.explanations import record
from vitrail.explanations.record import attention_layers
from vitrail.models import Detr, DetrConfig, build, config_of, list_models
from vitrail.models.detr import sine_positions
from vitrail.speed import macs

from .peers import perturb, pictures
from .tiny_detr import TINY


def tiny(name: str = "detr_resnet50", **options: object) -> Detr:
    torch.manual_seed(0)
    model = build(config_of(name, {**TINY[name], **options}))
    assert isinstance(model, Detr)
    perturb(model)
    return model


def unfilled(name: str) -> Detr:
    with torch.device("meta"):
        model = build(config_of(name))
    assert isinstance(model, Detr)
    return model


COUNTS = {"detr_resnet50": 41_524_768, "detr_resnet101": 41_524_768 + 17 * (2 * 1024 * 256 + 9 * 256 * 256)}
"""ResNet-101 has 17 more blocks in its third stage."""


@pytest.mark.parametrize("name", list_models("detr_*"))
def test_exact_parameter_counts(name: str) -> None:
    """No tensor of a frozen batch norm is counted: weight, bias, mean and variance are all four buffers.

    What is counted and not trained are the kernels of the stem (9,408) and of the first stage (212,992).
    """
    model = unfilled(name)
    total = sum(p.numel() for p in model.parameters())
    assert total == COUNTS[name.removesuffix("_dc5")]
    assert total - sum(p.numel() for p in model.parameters() if p.requires_grad) == 222_400 == 9_408 + 212_992
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert len(norms) == 5 + 3 * sum(model.config.depths)
    assert all(not list(norm.parameters()) and len(list(norm.buffers())) == 4 for norm in norms)
    frozen = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}


def test_trainable_count_of_the_published_size() -> None:
    assert sum(p.numel() for p in unfilled("detr_resnet50").parameters() if p.requires_grad) == 41_302_368


def test_multiply_adds_surround_those_of_the_paper() -> None:
    """The 86 of table 1 are a mean over pictures of 800 by about 1,100 pixels."""
    config = config_of("detr_resnet50")
    assert macs(config, (800, 1066)) / 1e9 < 86 < macs(config, (800, 1200)) / 1e9


def test_dilation_doubles_the_sides_of_the_last_map_with_the_same_weights() -> None:
    plain, dilated = tiny().eval(), tiny("detr_resnet50_dc5").eval()
    dilated.load_state_dict(plain.state_dict())
    images = pictures(64, 96)
    with torch.no_grad():
        assert plain.encode(images).tokens.grid == (2, 3)
        assert dilated.encode(images).tokens.grid == (4, 6)
        maps = plain.feature_maps(images), dilated.feature_maps(images)
    assert [tuple(x.shape[1:]) for x in maps[0]] == [
        *((256, 16, 24), (512, 8, 12), (1024, 4, 6), (2048, 2, 3)),
        *((16, 2, 3), (16, 2, 3)),
    ]
    for one, other in zip(maps[0][:3], maps[1][:3], strict=True):
        assert torch.equal(one, other)


# ---------------------------------------------------------------------- positions


def test_positions_are_the_papers_sines_and_cosines() -> None:
    """Row before column, each from 2π / n to 2π, sines and cosines by turns."""
    rows, columns, dim = 3, 5, 16
    table = sine_positions(torch.ones(1, rows, columns, dtype=torch.bool), dim)[0].unflatten(0, (rows, columns))
    for row in range(rows):
        for column in range(columns):
            expected = []
            for place, count in ((row, rows), (column, columns)):
                angle = 2 * math.pi * (place + 1) / count
                for pair in range(dim // 4):
                    frequency = 10_000 ** (-2 * pair / (dim // 2))
                    expected += [math.sin(angle * frequency), math.cos(angle * frequency)]
            torch.testing.assert_close(table[row, column], torch.tensor(expected), atol=1e-5, rtol=0)


def test_positions_of_a_padded_picture_are_those_of_the_picture_alone() -> None:
    mask = torch.zeros(1, 6, 9, dtype=torch.bool)
    mask[:, :4, :5] = True
    padded = sine_positions(mask, 16).unflatten(1, (6, 9))[:, :4, :5]
    alone = sine_positions(torch.ones(1, 4, 5, dtype=torch.bool), 16).unflatten(1, (4, 5))
    torch.testing.assert_close(padded, alone)
    assert bool(sine_positions(mask, 16).isfinite().all())


# ---------------------------------------------------------------------- padding


def padded_pair() -> tuple[Tensor, Tensor]:
    """Two pictures in a frame of 64 × 96; the second is 40 × 50."""
    images, mask = pictures(64, 96), torch.ones(2, 64, 96, dtype=torch.bool)
    mask[1, 40:], mask[1, :, 50:] = False, False
    return images * mask[:, None], mask


def test_a_mask_of_ones_changes_nothing() -> None:
    model = tiny().eval()
    images = pictures(64, 96)
    with torch.no_grad():
        plain, masked = model(images), model(images, torch.ones(2, 64, 96, dtype=torch.bool))
    torch.testing.assert_close(plain.logits, masked.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.boxes, masked.boxes, atol=1e-5, rtol=0)


def test_nobody_looks_at_the_padding_and_the_answer_does_not_depend_on_it() -> None:
    model = tiny().eval()
    images, mask = padded_pair()
    with torch.no_grad(), record(model, queries=None) as attention:
        answer = model(images, mask)
    # Of 2 × 3 places those of 32 × 64 pixels have picture under their first pixel.
    present = torch.tensor([[True, True, False], [True, True, False]])
    for layer in (0, 1, 3, 5):
        maps = attention.maps(layer)[1]
        assert maps.shape[-2:] == (2, 3) and float(maps[..., ~present].max()) == 0.0
        torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(maps.shape[:2]))
    with torch.no_grad():
        unmasked = model(images)
        garbage = model.encode(images, mask)
        values = garbage.tokens.values.clone()
        values[1, ~present.flatten()] = 1e3
        changed = model.decode(garbage._replace(tokens=garbage.tokens.with_values(values)), (-1,))[0]
        expected = model.decode(garbage, (-1,))[0]
    assert torch.equal(changed, expected)
    assert not torch.allclose(unmasked.logits[1], answer.logits[1], atol=1e-3)
    torch.testing.assert_close(unmasked.logits[0], answer.logits[0], atol=1e-5, rtol=0)


def test_masks_and_bands_that_do_not_fit_are_refused() -> None:
    model = tiny()
    with pytest.raises(VitrailError, match=r"mask of \(2, 64, 64\) does not fit pictures of \(2, 3, 64, 96\)"):
        model(pictures(64, 96), torch.ones(2, 64, 64, dtype=torch.bool))
    with pytest.raises(VitrailError, match="1 channels but the model takes 3"):
        model(pictures(64, 96)[:, :1])
    assert tiny(in_channels=5)(torch.randn(1, 5, 33, 47)).boxes.shape == (1, 5, 4)


# ---------------------------------------------------------------------- answers, recording, training


def test_every_decoder_block_answers_through_the_one_head_and_queries_are_positions() -> None:
    model = tiny().eval()
    images = pictures(64, 96)
    with torch.no_grad():
        answers, last = model.every_answer(images), model(images)
    assert len(answers) == 2 and torch.equal(answers[-1].logits, last.logits)
    assert not torch.allclose(answers[0].logits, last.logits)
    assert last.logits.shape == (2, 5, 6) and last.boxes.shape == (2, 5, 4)
    assert float(last.boxes.min()) >= 0 and float(last.boxes.max()) <= 1
    with torch.no_grad():
        model.query_embed.copy_(model.query_embed[:1].expand_as(model.query_embed))
        same = model(images).logits
    torch.testing.assert_close(same, same[:, :1].expand_as(same))


def test_attention_of_encoder_and_decoder_stands_on_its_own_grids() -> None:
    model = tiny().eval()
    assert len(attention_layers(model)) == 2 + 2 * 2
    with torch.no_grad(), record(model, queries=(0, -1)) as attention:
        model(pictures(64, 96))
    grids = [attention[layer].grid for layer in attention.layers]
    assert grids == [(2, 3), (2, 3), (5,), (2, 3), (5,), (2, 3)]
    for layer in attention.layers:
        torch.testing.assert_close(attention[layer].weights.sum(-1), torch.ones(2, 2, 2))
    assert attention.maps(-1).shape == (2, 2, 2, 2, 3)


def test_training_reaches_all_that_is_not_frozen_and_dropout_acts_there_only() -> None:
    model = tiny().train()
    images, mask = padded_pair()
    answers = model.every_answer(images, mask)
    torch.stack([(a.logits.square().sum() + a.boxes.square().sum()) for a in answers]).sum().backward()
    idle = {n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    # A bias of the keys adds the same to all scores of a query; without content the first values are their bias alone.
    assert {n for n in idle if not n.endswith(".k.bias")} <= {"decoder.0.attn.v.weight", *QUERIES_ALONE}
    assert not torch.equal(model(images).logits, model(images).logits)
    model.eval()
    assert torch.equal(model(images).logits, model(images).logits)


QUERIES_ALONE = {f"decoder.0.attn.{part}.{kind}" for part in "qk" for kind in ("weight", "bias")}
"""The first block's values are all the same, so that it does not matter which of them a query takes."""


def test_roles_rise_from_the_stem_to_the_head() -> None:
    roles = tiny().roles()
    depths = {name: role.depth for name, role in roles.items()}
    path = (
        *("backbone.conv1.weight", "backbone.layer1.0.conv1.weight", "backbone.layer4.0.conv3.weight"),
        *("input_proj.weight", "encoder.0.attn.q.weight", "encoder.1.norm2.bias"),
        *("decoder.0.cross.q.weight", "decoder.1.mlp.fc1.weight", "norm.weight"),
    )
    assert [depths[name] for name in path] == [0, 1, 4, 5, 6, 7, 8, 9, 10]
    assert depths["query_embed"] == 8 and depths["head.bbox_embed.layers.2.bias"] == 10
    assert not roles["query_embed"].decay and roles["backbone.conv1.weight"].decay and not roles["norm.weight"].decay


def test_matrices_start_as_published() -> None:
    torch.manual_seed(0)
    model = build(config_of("detr_resnet50", {"depths": (1, 1, 1, 1), "encoder_depth": 1, "decoder_depth": 1}))
    assert isinstance(model, Detr)
    state = model.state_dict()
    # Xavier-uniform over the joint 768 × 256 matrix, and over the MLP's 2,048 × 256.
    for name, bound in (
        ("encoder.0.attn.k.weight", (6 / 1024) ** 0.5),
        ("decoder.0.cross.proj.weight", (6 / 512) ** 0.5),
        ("decoder.0.mlp.fc1.weight", (6 / 2304) ** 0.5),
    ):
        assert 0.99 * bound < float(state[name].abs().max()) <= bound
    assert not state["encoder.0.attn.q.bias"].any() and not state["decoder.0.cross.proj.bias"].any()
    assert 0.95 < float(state["query_embed"].std()) < 1.05


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"depths": (3, 4, 6)}, "four stages"),
        ({"depths": (3, 4, 0, 3)}, "four stages"),
        ({"embed_dim": 250}, "multiple of 4"),
        ({"num_heads": 7}, "num_heads 7"),
        ({"num_queries": 0}, "at least 1"),
        ({"num_classes": 0}, "at least 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(values: dict, reason: str) -> None:
    with pytest.raises(VitrailError, match=reason):
        DetrConfig(**values)


def test_a_depth_that_there_is_not_is_refused() -> None:
    with pytest.raises(IndexError, match="no depth -7 in a model of 6"):
        tiny().intermediates(pictures(64, 96), [-7])
