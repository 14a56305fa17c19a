"""Every recorded map is softmax(QKᵀ/√d + bias) in float64 on the same weights, with the fused kernel on."""

from itertools import product

import pytest
import torch

from tests.models.tiny import TINY
from vitrail.explanations import record
from vitrail.explanations.given import attention_layers
from vitrail.models import build, config_of
from vitrail.nn import CrossAttention
from vitrail.nn.attention import attention_kernel

from .oracles import (
    counted,
    inputs_in_double,
    plain,
    rotary,
    separate,
    shaken,
    whole_decomposed,
    windowed,
    with_table,
)

TOLERANCE = 1e-5
"""A hundredth of what is asked for; float32 gives about 1e-6."""


def model_of(name: str, std: float = 0.4, **overrides):
    return shaken(build(config_of(name, {**TINY[name], **overrides})), std)


def recorded(model, *args, kernels: int | None = None, **choice):
    """What was recorded, the fused kernel having run as often as there are mixers and nothing else in the forward."""
    with counted() as counts, attention_kernel("fused"), record(model, **choice) as seen, torch.no_grad():
        model(*args)
    assert counts.fused == (len(attention_layers(model)) if kernels is None else kernels)
    assert counts.built_in_forward == 0
    return seen


def compare(model, args, expected, queries):
    """All layers against their oracle: all rows, and chosen ones."""
    every = recorded(model, *args, queries=None)
    some = recorded(model, *args, queries=queries)
    assert len(every.layers) == len(expected)
    for layer, oracle in enumerate(expected):
        difference = (every[layer].weights.double() - oracle).abs().max()
        assert difference <= TOLERANCE, layer
        # Far from uniform, and different in every row: otherwise the comparison would say little.
        assert oracle.amax(-1).mean() > 1.25 / oracle.shape[-1]
        assert oracle.std(dim=2).max() > 0.01
        chosen = some[layer]
        assert (chosen.weights.double() - oracle[:, :, chosen.queries]).abs().max() <= TOLERANCE, layer
    return every


@pytest.mark.parametrize("size", [(32, 48), (48, 24)])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_vit(name, size):
    model, images = model_of(name), torch.randn(2, 3, *size)
    inputs = inputs_in_double(model, attention_layers, images)
    compare(model, (images,), [plain(mixer, tokens.values) for mixer, tokens, _ in inputs], (0, (1, 2), -1))


@pytest.mark.parametrize("size", [(42, 70), (56, 28)])
def test_dinov2_with_registers(size):
    model, images = model_of("vit_small_patch14_reg4_dinov2"), torch.randn(2, 3, *size)
    inputs = inputs_in_double(model, attention_layers, images)
    expected = [plain(mixer, tokens.values) for mixer, tokens, _ in inputs]
    seen = compare(model, (images,), expected, (0, 3, (1, 1)))
    grid = (size[0] // 14, size[1] // 14)
    assert seen[0].grid == grid and seen[0].prefix == 5
    for r, c in product(range(grid[0]), range(grid[1])):
        place = expected[1][:, :, :, 5 + r * grid[1] + c]
        assert (seen.maps(1)[..., r, c].double() - place).abs().max() <= TOLERANCE


def test_dinov3_with_rotary_positions():
    model, images = model_of("vit_small_patch16_dinov3"), torch.randn(2, 3, 32, 64)
    inputs = inputs_in_double(model, attention_layers, images)
    expected = [rotary(mixer, tokens.values, (2, 4), 5, 100.0) for mixer, tokens, _ in inputs]
    compare(model, (images,), expected, (0, 2, (0, 3), (1, 1)))


def test_beit_with_its_bias():
    # At its own size, so that the table is the one in the file.
    model, images = model_of("beit_base_patch16_224", img_size=(48, 64)), torch.randn(2, 3, 48, 64)
    inputs = inputs_in_double(model, attention_layers, images)
    compare(model, (images,), [with_table(mixer, t.values, (3, 4), 1) for mixer, t, _ in inputs], (0, (2, 1), 4))


def test_beit_with_one_bias_for_all_layers():
    model, images = model_of("beit_large_patch16_224", img_size=(48, 64)), torch.randn(1, 3, 48, 64)
    twin_inputs = inputs_in_double(model, attention_layers, images)
    table = model.rel_pos_bias.double()
    expected = []
    for mixer, tokens, _ in twin_inputs:
        mixer.position_bias = table
        expected.append(with_table(mixer, tokens.values, (3, 4), 1))
    model.rel_pos_bias.float()
    compare(model, (images,), [weights.detach() for weights in expected], (0, (2, 1), 4))


@pytest.mark.parametrize("size", [(48, 72), (60, 44)])
def test_swin_with_shifted_windows(size):
    """Four stages; at the second size no window fits its grid, so that all of them are filled up."""
    model, images = model_of("swin_tiny_patch4_window7_224", window_size=3), torch.randn(2, 3, *size)
    inputs = inputs_in_double(model, attention_layers, images)
    assert any(any(mixer.shift) for mixer, *_ in inputs)
    expected = [windowed(mixer, tokens.values, tokens.grid) for mixer, tokens, _ in inputs]
    seen = compare(model, (images,), expected, (0, (1, 1), -1))
    assert seen[0].grid == (size[0] // 4, size[1] // 4)
    assert seen[7].grid == tuple(-(-size[axis] // 32) for axis in (0, 1))


def test_sam_with_decomposed_bias_in_windows_and_over_the_whole_picture():
    model, images = model_of("samvit_base_patch16", img_size=(64, 112)), torch.randn(2, 3, 64, 112)
    inputs = inputs_in_double(model, attention_layers, images)
    (window, in_windows, _), (whole, everywhere, _) = inputs
    expected = [windowed(window, in_windows.values, (4, 7)), whole_decomposed(whole, everywhere.values, (4, 7))]
    compare(model, (images,), expected, ((0, 0), (3, 6), (2, 3)))


def test_detr_in_its_encoder_and_its_cross_attention_with_padding():
    model, images = model_of("detr_resnet50", 0.05), torch.randn(2, 3, 64, 160)
    for block in [*model.encoder, *model.decoder]:
        shaken(block, 0.5)
    torch.nn.init.normal_(model.query_embed)
    mask = torch.ones(2, 64, 160, dtype=torch.bool)
    mask[1, :, 96:] = False
    visible = torch.ones(2, 2, 5, dtype=torch.bool)
    visible[1, :, 3:] = False
    expected = []
    for mixer, tokens, context in inputs_in_double(model, attention_layers, images, mask):
        placed = tokens.values + context.positions
        if isinstance(mixer, CrossAttention):
            keys = context.memory.tokens.values + context.memory.positions
            expected.append(separate(mixer, placed, keys, visible.flatten(1)))
        else:
            # The decoder's queries among themselves see no picture, so that nothing of it is hidden.
            hidden = None if tokens.grid == (5,) else visible.flatten(1)
            expected.append(separate(mixer, placed, placed, hidden))
    seen = compare(model, (images, mask), expected, (0, 3))
    cross = [i for i, mixer in enumerate(attention_layers(model)) if isinstance(mixer, CrossAttention)]
    assert cross == [3, 5]
    for layer in cross:
        assert seen.maps(layer).shape == (2, 2, 5, 2, 5)
        assert seen.maps(layer)[1, ..., 3:].max() == 0
        for r, c in product(range(2), range(5)):
            place = expected[layer][..., r * 5 + c]
            assert (seen.maps(layer)[..., r, c].double() - place).abs().max() <= TOLERANCE


def test_video_has_a_map_for_every_frame():
    model = model_of("videomae_base_patch16_224", img_size=(32, 48), frames=6, num_classes=3)
    (clip,) = model.example_inputs(2)
    inputs = inputs_in_double(model, attention_layers, clip)
    frames, rows, columns = inputs[0][1].grid
    assert frames > 1 and rows != columns
    expected = [plain(mixer, tokens.values) for mixer, tokens, _ in inputs]
    seen = compare(model, (clip,), expected, (0, (1, 1, 2), -1))
    maps = seen.maps(-1)
    assert maps.shape[3:] == (frames, rows, columns)
    for t, r, c in product(range(frames), range(rows), range(columns)):
        place = expected[-1][..., (t * rows + r) * columns + c]
        assert (maps[..., t, r, c].double() - place).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", [n for n in TINY if not n.startswith(("resnet", "convnext", "dit", "dvae"))])
def test_chosen_rows_are_rows_of_all_for_every_family(name):
    model = model_of(name, 0.2)
    args = model.example_inputs(2)
    with record(model, queries=None) as every, torch.no_grad():
        model(*args)
    with record(model, queries=(1, 0)) as some, torch.no_grad():
        model(*args)
    assert every.layers == some.layers == tuple(range(len(attention_layers(model))))
    for layer in every.layers:
        difference = (every[layer].weights[:, :, [1, 0]] - some[layer].weights).abs().max()
        assert difference <= TOLERANCE
