"""Transformers and timm as the oracles of DINOv3; the authors' files rebuilt. Names read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitrail.models import DINOv3
from vitrail.weights import CheckpointError, convert, load_checkpoint
from vitrail.weights.account import Account

from .peers import assert_same, perturb, pictures, save

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")

CASES: dict[str, dict] = {
    "plain": {},
    "gated": {"use_gated_mlp": True, "hidden_act": "silu"},
    "no_bias": {"query_bias": False, "value_bias": False},
}
SIZES = [(32, 32), (24, 40)]
PARAMETERS = {
    "cls_token": ("embeddings.cls_token", "cls_token"),
    "reg_token": ("embeddings.register_tokens", "reg_token"),
    "patch_embed.proj.weight": ("embeddings.patch_embeddings.weight", "patch_embed.proj.weight"),
    "blocks.0.attn.proj.weight": ("model.layer.0.attention.o_proj.weight", "blocks.0.attn.proj.weight"),
    "blocks.0.ls1.gamma": ("model.layer.0.layer_scale1.lambda1", "blocks.0.gamma_1"),
    "blocks.1.norm2.bias": ("model.layer.1.norm2.bias", "blocks.1.norm2.bias"),
}


def hf_peer(case: str, **options: Any) -> nn.Module:
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_register_tokens": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    return perturb(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**{**sizes, **CASES[case], **options})))


def timm_peer(name: str = "vit_small_patch16_dinov3_qkvb", **options: object) -> nn.Module:
    sizes = {"embed_dim": 128, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32, "num_classes": 7}
    return perturb(timm.create_model(name, pretrained=False, **{**sizes, **options}))


def load(path: Path) -> tuple[DINOv3, Account]:
    loaded = load_checkpoint(path)
    assert isinstance(loaded.model, DINOv3)
    return loaded.model, loaded.account


def named(ours: nn.Module, theirs: nn.Module, peer: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    mine, others = dict(ours.named_parameters()), dict(theirs.named_parameters())
    pairs = [(name, names[peer]) for name, names in PARAMETERS.items()]
    return {name: mine[name] for name, _ in pairs}, {name: others[other] for name, other in pairs}


# ---------------------------------------------------------------------- Transformers


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_features_and_gradients_equal_transformers(case: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs = hf_peer(case)
    theirs.save_pretrained(tmp_path)
    ours, _ = load(tmp_path)
    images = pictures(*size)
    assert_same(
        lambda x: ours.features(x).values, lambda x: theirs(x).last_hidden_state, images, *named(ours, theirs, 0)
    )
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images).pooler_output, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_every_block_equals_transformers(size: tuple[int, int], tmp_path: Path) -> None:
    theirs = hf_peer("gated")
    theirs.save_pretrained(tmp_path)
    ours, _ = load(tmp_path)
    images = pictures(*size)
    with torch.no_grad():
        hidden = theirs(images, output_hidden_states=True).hidden_states
        found = ours.intermediates(images, [0, 1], norm=False)
    torch.testing.assert_close(found[0].values, hidden[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1].values, hidden[2], atol=1e-4, rtol=0)
    assert found[0].grid == (size[0] // 8, size[1] // 8) and found[0].prefix == 5


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"num_register_tokens": 0}, {"embeddings.register_tokens": "no registers"}),
        ({"query_bias": False}, {"blocks.1.attn.qkv.q_bias": "no bias of the queries"}),
        ({"value_bias": False}, {"blocks.1.attn.qkv.v_bias": "no bias of the values"}),
    ],
)
def test_what_a_model_of_transformers_may_lack(option: dict[str, Any], said: dict[str, str], tmp_path: Path) -> None:
    theirs, images = hf_peer("plain", **option), pictures(24, 40)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, account = load(tmp_path / "theirs")
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images).pooler_output, atol=1e-4, rtol=0)
    left = {**account.dropped, **account.missing}
    assert all(reason in left[name] for name, reason in said.items())
    convert(tmp_path / "theirs", tmp_path / "again", to="transformers")
    again, report = transformers.DINOv3ViTModel.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(images).pooler_output, theirs(images).pooler_output)


def test_a_bias_that_only_one_block_lacks_is_missing(tmp_path: Path) -> None:
    hf_peer("plain").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("layer.1.attention.q_proj.bias"))
    save_file({name: t for name, t in tensors.items() if name != lost}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"incomplete.*blocks\.1\.attn\.qkv\.q_bias"):
        load_checkpoint(tmp_path)


def test_masked_patches_equal_transformers(tmp_path: Path) -> None:
    theirs = hf_peer("plain")
    theirs.save_pretrained(tmp_path)
    ours, _ = load(tmp_path)
    images, mask = pictures(32, 32), torch.rand(2, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    with torch.no_grad():
        expected = theirs(images, bool_masked_pos=mask).last_hidden_state
        torch.testing.assert_close(ours.encode(ours.embed(images, mask=mask)).values, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_names_of_the_modules_are_read_as_those_of_the_files(case: str, tmp_path: Path) -> None:
    theirs = hf_peer(case)
    theirs.save_pretrained(tmp_path / "files")
    in_files = load_file(tmp_path / "files" / "model.safetensors")
    assert "layer.0.norm1.weight" in in_files and "model.layer.0.norm1.weight" in theirs.state_dict()
    memory = save(theirs, tmp_path / "memory" / "model.safetensors")
    (memory.parent / "config.json").write_text((tmp_path / "files" / "config.json").read_text())
    (one, account), (other, _) = load(tmp_path / "files"), load(memory.parent)
    assert one.config == other.config
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert {part for parts in account.translated for part in parts.split("+")} == set(in_files)
    assert list(account.missing) == ["rope.periods"]


@pytest.mark.parametrize("case", CASES)
def test_written_for_transformers_and_opened_there_is_bit_equal(case: str, tmp_path: Path) -> None:
    theirs = hf_peer(case)
    theirs.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "vitrail", to="vitrail")
    account = convert(tmp_path / "vitrail", tmp_path / "again", to="transformers")
    assert list(account.dropped) == ["rope.periods"]
    original, written = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "again"))
    assert original.keys() == written.keys()
    assert all(torch.equal(tensor, written[name]) for name, tensor in original.items())
    opened = transformers.AutoModel.from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        images = pictures(24, 40)
        assert torch.equal(opened(images).last_hidden_state, theirs(images).last_hidden_state)


def test_a_classifier_is_not_lost_silently_for_transformers(tmp_path: Path) -> None:
    file = save(timm_peer(), tmp_path / "timm.safetensors")
    with pytest.raises(CheckpointError, match="no DINOv3 with a classifier"):
        convert(file, tmp_path / "hf", to="transformers")


# ---------------------------------------------------------------------- timm

TIMM_CASES: dict[str, tuple[str, dict]] = {
    "biases": ("vit_small_patch16_dinov3_qkvb", {}),
    "no_biases": ("vit_small_patch16_dinov3", {}),
    "gated": ("vit_small_plus_patch16_dinov3_qkvb", {}),
    "class_token": ("vit_small_patch16_dinov3", {"global_pool": "token"}),
    "norm_behind_the_pool": ("vit_small_patch16_dinov3", {"use_fc_norm": True}),
    "backbone": ("vit_small_patch16_dinov3_qkvb", {"num_classes": 0, "global_pool": "token"}),
}


def timm_file(case: str, folder: Path) -> tuple[nn.Module, Path]:
    name, options = TIMM_CASES[case]
    theirs = timm_peer(name, **options)
    file = save(theirs, folder / "model.safetensors")
    pool = options.get("global_pool", "avg")
    description = {"architecture": name, "global_pool": pool, "model_args": {"img_size": 32}}
    (folder / "config.json").write_text(json.dumps(description))
    return theirs, file


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", TIMM_CASES)
def test_answers_and_gradients_equal_timm(case: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs, _ = timm_file(case, tmp_path)
    ours, _ = load(tmp_path)
    assert_same(ours, theirs, pictures(*size), *named(ours, theirs, 1))


def test_features_after_every_block_equal_timm(tmp_path: Path) -> None:
    theirs, _ = timm_file("gated", tmp_path)
    ours, _ = load(tmp_path)
    images = pictures(24, 40)
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, norm=True, return_prefix_tokens=True, intermediates_only=True)
        found = ours.intermediates(images, [0, 1])
    for tap, (patches, prefix) in zip(found, expected, strict=True):
        torch.testing.assert_close(tap.feature_map(), patches, atol=1e-4, rtol=0)
        torch.testing.assert_close(tap.prefix_values, prefix, atol=1e-4, rtol=0)


def test_a_bare_file_of_timm_with_a_head_reads_the_mean(tmp_path: Path) -> None:
    theirs = timm_peer()
    ours, _ = load(save(theirs, tmp_path / "bare.safetensors"))
    assert ours.config.pool == "mean" and ours.img_size == (128, 128)
    with torch.no_grad():
        torch.testing.assert_close(ours(pictures(32, 32)), theirs(pictures(32, 32)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", TIMM_CASES)
def test_written_for_timm_and_opened_there_is_bit_equal(case: str, tmp_path: Path) -> None:
    theirs, _ = timm_file(case, tmp_path)
    convert(tmp_path, tmp_path / "vitrail", to="vitrail")
    convert(tmp_path / "vitrail", tmp_path / "again", to="timm")
    written = load_file(tmp_path / "again" / "model.safetensors")
    assert written.keys() == theirs.state_dict().keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in theirs.state_dict().items())
    opened = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(opened(pictures(24, 40)), theirs(pictures(24, 40)))


# ---------------------------------------------------------------------- the authors' own


def official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights in the authors' layout: joint biases with their mask, gate and value apart, rounded periods."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "rope.periods":
            out["rope_embed.periods"] = tensor.bfloat16()
        elif name.endswith("q_bias"):
            stem = name.removesuffix(".q_bias")
            # The keys' third is there and not zero: only the mask says that it is not in use.
            parts = [tensor, torch.ones_like(tensor), state[f"{stem}.v_bias"]]
            mask = [torch.ones_like(tensor), torch.zeros_like(tensor), torch.ones_like(tensor)]
            out |= {f"{stem}.bias": torch.cat(parts), f"{stem}.bias_mask": torch.cat(mask)}
        elif ".mlp.w12." in name:
            gate, value = tensor.chunk(2)
            out |= {name.replace("w12", "w1"): gate.clone(), name.replace("w12", "w2"): value.clone()}
        elif not name.endswith("v_bias"):
            out[name.replace("reg_token", "storage_tokens")] = tensor
    return out


@pytest.mark.parametrize("case", CASES)
def test_the_authors_file_is_the_same_model(case: str, tmp_path: Path) -> None:
    theirs = hf_peer(case)
    theirs.save_pretrained(tmp_path / "hf")
    expected, _ = load(tmp_path / "hf")
    tensors = official(expected.state_dict())
    extra = {"local_cls_norm.weight": torch.ones(64), "local_cls_norm.bias": torch.ones(64)}
    torch.save({**tensors, **extra}, tmp_path / "dinov3_vits16.pth")
    ours, account = load(tmp_path / "dinov3_vits16.pth")
    masks = {name for name in tensors if name.endswith("bias_mask")}
    assert set(account.dropped) == {*extra, *masks}
    assert {p for parts in account.translated for p in parts.split("+")} == tensors.keys() - masks
    assert ours.config.num_heads == 4 and ours.config.norm_eps == 1e-5
    rounded = expected.rope.periods.bfloat16().float()
    assert torch.equal(ours.rope.periods, rounded) and not torch.equal(expected.rope.periods, rounded)
    expected.rope.periods.copy_(rounded)
    with torch.no_grad():
        assert torch.equal(ours(pictures(24, 40)), expected(pictures(24, 40)))


def test_a_training_checkpoint_gives_the_teachers_backbone(tmp_path: Path) -> None:
    hf_peer("plain").save_pretrained(tmp_path / "hf")
    expected, _ = load(tmp_path / "hf")
    head = {"dino_head.mlp.0.weight": torch.ones(3, 64), "ibot_head.last_layer.weight": torch.ones(3, 3)}
    teacher = {**{f"backbone.{name}": t for name, t in official(expected.state_dict()).items()}, **head}
    torch.save({"teacher": teacher, "iteration": 7}, tmp_path / "run.pth")
    ours, account = load(tmp_path / "run.pth")
    assert torch.equal(ours.reg_token, expected.reg_token) and set(head) <= set(account.dropped)


def test_a_bias_of_the_keys_that_is_in_use_is_refused(tmp_path: Path) -> None:
    hf_peer("plain").save_pretrained(tmp_path / "hf")
    tensors = official(load(tmp_path / "hf")[0].state_dict())
    torch.save({n: t for n, t in tensors.items() if not n.endswith("bias_mask")}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attn\.qkv\.bias has a bias for the keys"):
        load(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["cls_token", "storage_tokens", "blocks.1.mlp.fc2.weight", "norm.bias"])
def test_a_missing_tensor_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    hf_peer("plain").save_pretrained(tmp_path / "hf")
    tensors = official(load(tmp_path / "hf")[0].state_dict())
    del tensors[name]
    torch.save(tensors, tmp_path / "x.pth")
    wanted = "known|rope_embed" if name == "storage_tokens" else name.replace(".", r"\.")
    with pytest.raises(CheckpointError, match=rf"x\.pth.*({wanted})"):
        load(tmp_path / "x.pth")


def test_periods_of_another_base_are_not_written_for_others(tmp_path: Path) -> None:
    hf_peer("plain").save_pretrained(tmp_path / "hf")
    tensors = official(load(tmp_path / "hf")[0].state_dict())
    tensors["rope_embed.periods"] = tensors["rope_embed.periods"] * 2
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="rotary periods"):
        convert(tmp_path / "x.pth", tmp_path / "timm", to="timm")
