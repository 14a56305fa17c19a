import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vitrail.nn.attention as attention_module
from vitrail.contracts import VitrailError
from vitrail.explanations.record import AttentionRecord, mean_of_heads, place_of, record

from .planted import explicit_attention, planted_vit, tiny_vit


@pytest.mark.parametrize("size", [(16, 16), (16, 32), (40, 16)])
@pytest.mark.parametrize("registers", [0, 4])
def test_weights_equal_softmax_from_the_raw_weights(size, registers):
    model = tiny_vit((16, 24), registers)
    images = torch.randn(2, 3, *size)
    with record(model, queries=None) as seen, torch.no_grad():
        model(images)
    expected = explicit_attention(model, images)
    assert seen.layers == (0, 1, 2)
    for layer in range(3):
        assert seen[layer].prefix == 1 + registers
        assert seen[layer].grid == (size[0] // 8, size[1] // 8)
        assert seen[layer].weights.dtype == torch.float32
        torch.testing.assert_close(seen[layer].weights.double(), expected[layer], atol=2e-6, rtol=1e-4)


def test_only_the_rows_asked_for_are_computed_and_the_fused_kernel_does_the_work(monkeypatch):
    fused, plain = [], []
    kernel, weights = F.scaled_dot_product_attention, attention_module.attention_weights

    def counting_kernel(*args, **kwargs):
        fused.append(args[0].shape)
        return kernel(*args, **kwargs)

    def counting_weights(query, key, mask=None):
        plain.append((query.shape[-2], key.shape[-2]))
        return weights(query, key, mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counting_kernel)
    monkeypatch.setattr(attention_module, "attention_weights", counting_weights)
    model, images = tiny_vit(), torch.randn(1, 3, 16, 24)
    with torch.no_grad(), attention_module.attention_kernel("fused"):
        without = model(images)
        fused.clear()
        with record(model, layers=(-1, 0), queries=(0, (1, 2))) as seen:
            with_hooks = model(images)
    assert len(fused) == 3
    assert plain == [(2, 7), (2, 7)]
    assert seen.layers == (0, 2)
    assert torch.equal(with_hooks, without)


def test_hooks_are_gone_after_the_block_even_after_an_error():
    model = tiny_vit()
    with pytest.raises(RuntimeError, match="planned"), record(model):
        raise RuntimeError("planned")
    with record(model) as seen, torch.no_grad():
        pass
    model(torch.randn(1, 3, 16, 24))
    assert seen.layers == ()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_under_autocast_rows_are_exact_and_outputs_unchanged():
    model, images, inputs = tiny_vit(), torch.randn(2, 3, 16, 24), []
    attention = model.blocks[0].attn
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(images)
        handle = attention.register_forward_pre_hook(lambda _, args: inputs.append(args[0].values))
        with record(model, layers=(0,)) as seen:
            actual = model(images)
        handle.remove()
    assert torch.equal(actual, expected)
    assert not seen[0].weights.requires_grad
    projected = inputs[0].double() @ attention.qkv.weight.double().T + attention.qkv.bias.double()
    query, key = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in projected.chunk(3, dim=-1)[:2])
    exact = (query[:, :, :1] @ key.mT / 8**0.5).softmax(dim=-1)
    # In half precision rows would be off by a hundredth.
    torch.testing.assert_close(seen[0].weights.double(), exact.detach(), atol=2e-6, rtol=1e-4)


def test_half_precision_model_is_recorded():
    model = tiny_vit().bfloat16()
    with record(model, layers=(1,)) as seen, torch.no_grad():
        model(torch.randn(1, 3, 16, 24).bfloat16())
    assert seen[1].weights.dtype == torch.float32
    torch.testing.assert_close(seen[1].weights.sum(-1), torch.ones(1, 2, 1), atol=1e-5, rtol=0)


def test_map_places_the_patch_at_its_row_and_column_on_a_non_square_grid():
    # Token 1 + 3·5 + 4 is patch (3, 4) of a grid of 4 rows and 5 columns; the class token looks at it.
    model = planted_vit((32, 40), {0: 1 + 3 * 5 + 4, 1: 1 + 2})
    with record(model, queries=(0, (0, 0))) as seen, torch.no_grad():
        model(torch.randn(2, 3, 32, 40))
    maps = seen.maps(0)
    assert maps.shape == (2, 1, 2, 4, 5)
    assert maps[0, 0, 0].argmax().item() == 3 * 5 + 4
    assert maps[0, 0, 0, 3, 4] > 0.99
    assert maps[1, 0, 1].argmax().item() == 2


def test_dropped_patches_stay_empty_and_the_others_find_their_place():
    model = tiny_vit((16, 24))
    keep = torch.tensor([[5, 0, 3], [1, 2, 4]])
    images = torch.randn(2, 3, 16, 24)
    with record(model, layers=(0,)) as seen, torch.no_grad():
        model.blocks(model.embed(images, keep=keep))
    maps, raw = seen.maps(0)[:, :, 0].flatten(2), seen[0].weights[:, :, 0, 1:]
    assert maps.isnan().sum(-1).eq(3).all()
    torch.testing.assert_close(maps[0][:, [5, 0, 3]], raw[0])
    torch.testing.assert_close(maps[1][:, [1, 2, 4]], raw[1])


def test_naming_a_patch_of_an_incomplete_grid_is_refused():
    model = tiny_vit((16, 24))
    with pytest.raises(VitrailError, match="dropped"), record(model, queries=((0, 0),)):
        model.blocks(model.embed(torch.randn(1, 3, 16, 24), keep=torch.tensor([[5, 0, 3]])))


def test_mean_of_heads_is_kept_when_asked_for():
    model, images = tiny_vit(), torch.randn(1, 3, 16, 24)
    with record(model) as every, torch.no_grad():
        model(images)
    with record(model, fuse=mean_of_heads) as mean, torch.no_grad():
        model(images)
    torch.testing.assert_close(mean[1].weights[:, 0], every[1].weights.mean(1))


def test_npz_round_trip_keeps_every_number_and_needs_no_pickle(tmp_path):
    model = tiny_vit(registers=4)
    with record(model, layers=(-1, 0), queries=(0, (1, 1))) as seen, torch.no_grad():
        model(torch.randn(2, 3, 16, 24))
    path = seen.to_npz(tmp_path / "attention.npz")
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == sorted(
            [
                *("depth", "layers"),
                *(f"{k}_{n}" for k in ("weights", "queries", "grid", "prefix", "registers") for n in ("00", "02")),
            ]
        )
        assert file["layers"].tolist() == [0, 2]
        assert file["weights_02"].shape == (2, 2, 2, 11)
        assert file["queries_00"].tolist() == [0, 5 + 1 * 3 + 1]
        assert file["grid_00"].tolist() == [2, 3]
        assert int(file["prefix_00"]) == 5 and int(file["registers_00"]) == 4
    again = AttentionRecord.from_npz(path)
    assert torch.equal(again[-1].weights, seen[2].weights)
    assert torch.equal(again.maps(0), seen.maps(0))
    assert again[0].class_token


def test_a_record_knows_that_registers_are_no_class_token(tmp_path):
    model = tiny_vit(registers=4, class_token=False, pool="mean")
    with record(model) as seen, torch.no_grad():
        model(torch.randn(1, 3, 16, 24))
    again = AttentionRecord.from_npz(seen.to_npz(tmp_path / "attention.npz"))
    for attention in (seen[-1], again[-1]):
        assert attention.prefix == attention.registers == 4 and not attention.class_token


def test_files_from_before_registers_were_written_are_read(tmp_path):
    model = tiny_vit(registers=4)
    with record(model, layers=(0,)) as seen, torch.no_grad():
        model(torch.randn(1, 3, 16, 24))
    with np.load(seen.to_npz(tmp_path / "new.npz")) as file:
        np.savez(tmp_path / "old.npz", **{name: file[name] for name in file.files if name != "registers_00"})
    again = AttentionRecord.from_npz(tmp_path / "old.npz")
    assert again[0].class_token and torch.equal(again.maps(0), seen.maps(0))


def test_a_file_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, a=np.zeros(2))
    with pytest.raises(VitrailError, match=r"other\.npz"):
        AttentionRecord.from_npz(path)


@pytest.mark.parametrize("layers", [(3,), (-4,)])
def test_a_layer_that_does_not_exist_is_refused(layers):
    with pytest.raises(VitrailError, match="3 attention layers"), record(tiny_vit(), layers=layers):
        pass


def test_asking_for_what_was_not_recorded_says_how_to_get_it():
    with record(tiny_vit(), layers=(1,)) as seen, torch.no_grad():
        tiny_vit()(torch.randn(1, 3, 16, 24))
    with pytest.raises(VitrailError, match="run the model inside"):
        seen[1]
    model = tiny_vit()
    with record(model, layers=(1,)) as seen, torch.no_grad():
        model(torch.randn(1, 3, 16, 24))
    with pytest.raises(VitrailError, match="layer 0 of 3"):
        seen[0]
    with pytest.raises(VitrailError, match=r"queries=\(\(1, 2\),\)"):
        seen[1].row((1, 2))


def test_a_model_without_attention_is_refused():
    with pytest.raises(VitrailError, match="Linear has no attention"), record(torch.nn.Linear(2, 2)):
        pass


@pytest.mark.parametrize(("query", "place"), [(0, 0), (-1, 10), ((0, 0), 5), ((1, 2), 10)])
def test_place_of(query, place):
    assert place_of(query, (2, 3), prefix=5, length=11) == place


@pytest.mark.parametrize("query", [11, -12, (2, 0), (0, 3), (-1, 0), (1,)])
def test_place_that_does_not_exist(query):
    with pytest.raises(VitrailError):
        place_of(query, (2, 3), prefix=5, length=11)
