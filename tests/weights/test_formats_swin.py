"""Swin in every naming: read to the same weights, every tensor accounted for, written back bit-equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.models.peers import perturb, pictures
from tests.models.tiny_swin import TINY
from tests.weights.builders import assert_reads, state
from vitrail.models import Swin, build, config_of
from vitrail.nn import PatchMerging, Tokens
from vitrail.weights import CheckpointError, convert, load_checkpoint, load_pretrained
from vitrail.weights.formats import recognise

NAME = "swin_tiny_patch4_window7_224"
SIZES = {key: value for key, value in TINY[NAME].items() if key not in ("img_size", "num_classes")}


def model(**options: object) -> Swin:
    torch.manual_seed(0)
    made = build(config_of(NAME, {**SIZES, "num_classes": 5, **options}))
    assert isinstance(made, Swin)
    perturb(made)
    return made


def official(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names as Swin's authors have them: a merging is the end of a stage, indices and masks are stored."""
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        name = name.replace("attn.mixer.position_bias.", "attn.").replace("attn.mixer.", "attn.")
        name = name.replace("patch_norm", "patch_embed.norm")
        if ".downsample." in name:
            stage = int(name.split(".")[1])
            name = name.replace(f"layers.{stage}.", f"layers.{stage - 1}.")
        out[name] = tensor
    out["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    out["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    return out


def openmmlab(weights: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The authors' names as OpenMMLab's converter changes them."""
    out: dict[str, Tensor] = {}
    for name, tensor in official(weights).items():
        if ".downsample." in name:
            four = tensor.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
            tensor = four.transpose(-1, -2).flatten(-2)
        name = name.replace("attn.", "attn.w_msa.") if name.startswith("layers") else name
        name = name.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
        name = name.replace("patch_embed.proj", "patch_embed.projection")
        name = name.replace("layers", "stages", 1) if name.startswith("layers") else name
        if not name.startswith("head"):
            out[prefix + name] = tensor
    return out


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, {"img_size": 224, "window_size": 7}),
        ({"img_size": 384, "window_size": 12}, {"img_size": 384, "window_size": 12}),
        ({"img_size": 64}, {"img_size": 64, "window_size": (7, 7, 4, 2)}),
        ({"qkv_bias": False}, {"qkv_bias": False}),
        ({"in_channels": 5, "num_classes": 0}, {"in_channels": 5, "num_classes": 0}),
    ],
)
def test_the_authors_files(options: dict, found: dict, tmp_path: Path) -> None:
    expected = model(**options)
    content = {"model": official(state(expected)), "optimizer": {"state": {}}, "epoch": 299}
    torch.save(content, tmp_path / "swin.pth")
    assert_reads(tmp_path / "swin.pth", expected, norm_eps=1e-5, bias_resize="bicubic", num_heads=(1, 2, 2, 4), **found)
    account = load_checkpoint(tmp_path / "swin.pth").account
    assert set(account.dropped) == {
        "layers.0.blocks.0.attn.relative_position_index",
        "layers.0.blocks.1.attn_mask",
    }
    assert len(account.translated) == len(state(expected))


def test_timm_reads_our_rebuilt_authors_file_the_same(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    expected = model()
    theirs = timm.create_model(NAME, num_classes=5, **SIZES).eval()
    filtered = timm.models.swin_transformer.checkpoint_filter_fn(official(state(expected)), theirs)
    theirs.load_state_dict(filtered)
    images = pictures(224, 224, batch=1)
    with torch.no_grad():
        torch.testing.assert_close(expected(images), theirs(images), atol=1e-4, rtol=0)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_openmmlab_files(prefix: str, tmp_path: Path) -> None:
    expected = model(num_classes=0)
    tensors = openmmlab(state(expected), prefix)
    if prefix:
        last = {f"backbone.norm3.{kind}": tensors.pop(f"backbone.norm.{kind}") for kind in ("weight", "bias")}
        others = {f"backbone.norm{i}.weight": torch.ones(16 * 2**i) for i in range(3)}
        tensors = {**tensors, **last, **others, "rpn_head.conv.weight": torch.ones(1)}
    torch.save({"state_dict": tensors, "meta": {}}, tmp_path / "mm.pth")
    assert_reads(tmp_path / "mm.pth", expected)
    dropped = load_checkpoint(tmp_path / "mm.pth").account.dropped
    assert len(dropped) == (6 if prefix else 2)


def test_openmmlab_classifier(tmp_path: Path) -> None:
    expected = model()
    weights = state(expected)
    head = {f"head.fc.{kind}": weights[f"head.{kind}"] for kind in ("weight", "bias")}
    torch.save({"state_dict": {**openmmlab(weights, "backbone."), **head}}, tmp_path / "mm.pth")
    assert_reads(tmp_path / "mm.pth", expected)


def test_openmmlab_merging_is_its_unfold() -> None:
    """What their module computes (unfold, norm, linear) from permuted weights is what ours computes."""
    merging = PatchMerging(3)
    perturb(merging)
    theirs = openmmlab({f"layers.1.downsample.{name}": t for name, t in state(merging).items()})
    weight, norm, bias = (
        theirs[f"stages.0.downsample.{name}"] for name in ("reduction.weight", "norm.weight", "norm.bias")
    )
    values = torch.randn(2, 24, 3)
    unfolded = nn.Unfold(2, stride=2)(values.transpose(1, 2).unflatten(2, (4, 6))).transpose(1, 2)
    expected = nn.functional.layer_norm(unfolded, (12,), norm, bias) @ weight.T
    torch.testing.assert_close(merging(Tokens(values, (4, 6))).values, expected, atol=1e-5, rtol=1e-5)


def test_timms_new_layout_is_read_and_written_bit_equal(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = perturb(timm.create_model(NAME, img_size=(56, 112), num_classes=5, **SIZES))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"169, 169, 91, 21 rows.*config\.json"):
        load_checkpoint(tmp_path / "model.safetensors")
    arguments = {"img_size": [56, 112], "window_size": 7}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": NAME, "model_args": arguments}))
    loaded = load_checkpoint(tmp_path)
    assert loaded.model.config.windows == ((7, 7), (7, 7), (4, 7), (2, 4))
    assert loaded.model.config.bias_resize == "geometric"
    convert(tmp_path, tmp_path / "again", to="timm")
    before, after = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(after[name], t) for name, t in before.items())
    opened = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(opened(pictures(56, 112)), theirs(pictures(56, 112)))


@pytest.mark.parametrize("name", ["swin_large_patch4_window12_384", "swin_tiny_patch4_window12_384"])
def test_a_folder_for_timm_names_an_architecture_that_it_has(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from vitrail.data import Preprocess
    from vitrail.weights.account import Account
    from vitrail.weights.write_swin import for_timm

    with torch.device("meta"):
        made = build(config_of(name))
    tensors, beside = for_timm(made.config, made.state_dict(), Account("", ""), (), Preprocess(size=(384, 384)))
    described = beside["config.json"]
    with torch.device("meta"):
        theirs = timm.create_model(described["architecture"], **described["model_args"])
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in tensors.items()}


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    numbers = {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
    config = transformers.SwinConfig(**numbers, id2label={i: f"kind {i}" for i in range(5)})
    perturb(transformers.SwinForImageClassification(config)).save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


def test_transformers_files_are_read_and_written_bit_equal(hub: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    assert any("attention.self.query" in name for name in load_file(hub / "model.safetensors"))
    convert(hub, tmp_path / "vitrail", to="vitrail")
    convert(tmp_path / "vitrail", tmp_path / "again", to="transformers")
    before, after = (load_file(folder / "model.safetensors") for folder in (hub, tmp_path / "again"))
    assert before.keys() == after.keys() and all(torch.equal(after[name], t) for name, t in before.items())
    kind = transformers.SwinForImageClassification
    theirs = kind.from_pretrained(hub).eval()
    opened, info = kind.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert opened.config.id2label[3] == "kind 3" and opened.config.window_size == 4
    with torch.no_grad():
        assert torch.equal(opened.eval()(pictures(64, 64)).logits, theirs(pictures(64, 64)).logits)


def test_transformers_names_in_memory_and_of_bare_backbones(hub: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from_files = load_checkpoint(hub).model
    theirs = transformers.SwinForImageClassification.from_pretrained(hub)
    save_file(theirs.state_dict(), tmp_path / "memory.safetensors")
    assert_reads(tmp_path / "memory.safetensors", from_files)
    theirs.swin.save_pretrained(tmp_path / "bare")
    bare = load_checkpoint(tmp_path / "bare").model
    assert bare.num_classes == 0
    with torch.no_grad():
        expected = theirs.swin(pictures(64, 64)).pooler_output
        torch.testing.assert_close(bare(pictures(64, 64)), expected, atol=1e-4, rtol=0)


def test_transformers_detector_and_masked_pretraining_give_their_backbone(hub: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig.from_pretrained(hub, out_features=["stage1", "stage2"], num_labels=0)
    perturb(transformers.SwinBackbone(config)).save_pretrained(tmp_path / "backbone")
    account = load_checkpoint(tmp_path / "backbone").account
    assert all(name.startswith("hidden_states_norms.") for name in account.dropped) and len(account.dropped) == 4
    perturb(transformers.SwinForMaskedImageModeling(config)).save_pretrained(tmp_path / "masked")
    account = load_checkpoint(tmp_path / "masked").account
    assert set(account.dropped) == {"embeddings.mask_token", "decoder.0.weight", "decoder.0.bias"}


def test_pictures_that_leave_no_room_for_the_windows_are_said(hub: Path) -> None:
    config = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps({**config, "image_size": 16}))
    loaded = load_checkpoint(hub)
    assert loaded.model.config.img_size == 32
    assert any("leave no room" in note for note in loaded.account.notes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "swinv2"}, "swinv2"),
        ({"hidden_act": "relu"}, "not the exact GELU"),
        ({"layer_norm_eps": 1e-6}, "different epsilons"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(change: dict, reason: str, hub: Path) -> None:
    config = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(hub)


def test_what_other_libraries_lack_is_refused(tmp_path: Path) -> None:
    weights = official(state(model(img_size=64)))
    torch.save({"model": weights}, tmp_path / "swin.pth")
    with pytest.raises(CheckpointError, match="one square window for all stages"):
        convert(tmp_path / "swin.pth", tmp_path / "hub", to="transformers")
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    "name",
    [
        "patch_embed.norm.bias",
        "layers.1.blocks.1.mlp.fc2.weight",
        "layers.2.downsample.reduction.weight",
        "layers.1.blocks.0.attn.relative_position_bias_table",
        "norm.weight",
    ],
)
def test_a_missing_tensor_is_an_error(name: str, tmp_path: Path) -> None:
    weights = official(state(model()))
    del weights[name]
    torch.save({"model": weights}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth.*incomplete"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_tensor_nobody_knows_is_an_error_that_names_it(tmp_path: Path) -> None:
    weights = official(state(model()))
    torch.save({**weights, "absolute_pos_embed": torch.ones(1, 3136, 16)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth.*absolute_pos_embed"):
        load_checkpoint(tmp_path / "x.pth")
    del weights["layers.0.blocks.0.attn.relative_position_bias_table"]
    torch.save({**weights, "layers.0.blocks.0.attn.logit_scale": torch.ones(1)}, tmp_path / "v2.pth")
    with pytest.raises(CheckpointError, match=r"v2\.pth: no known"):
        load_checkpoint(tmp_path / "v2.pth")


def test_other_bands_and_classes(tmp_path: Path) -> None:
    source = state(model())
    torch.save({"model": official(source)}, tmp_path / "swin.pth")
    found = load_pretrained(NAME, tmp_path / "swin.pth", in_channels=6, num_classes=3, drop_path=0.1, **SIZES)
    assert found.model.config.in_channels == 6 and found.model.config.drop_path == 0.1
    weight = source["patch_embed.proj.weight"]
    torch.testing.assert_close(found.model.state_dict()["patch_embed.proj.weight"], torch.cat([weight, weight], 1) / 2)
    assert set(found.account.missing) == {"head.weight", "head.bias"}
    with pytest.raises(CheckpointError, match="embed_dim 16"):
        load_pretrained(NAME, tmp_path / "swin.pth")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (("layers.0.blocks.0.attn.qkv.weight", "layers.0.blocks.0.attn.relative_position_bias_table"), "Swin by"),
        (
            (
                "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight",
                "backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table",
            ),
            "Swin of OpenMMLab",
        ),
        (("swin.encoder.layers.0.blocks.0.attention.self.relative_position_bias_table",), "Transformers (swin)"),
    ],
)
def test_recognition(keys: tuple[str, ...], name: str) -> None:
    assert recognise(keys).name.startswith(name)
