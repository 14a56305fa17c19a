"""BEiT in every naming: read to the same weights, every tensor accounted for, written back bit-equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.models.peers import perturb, pictures
from tests.weights.builders import assert_reads, state
from vitrail.data.preprocess import HALF_MEAN
from vitrail.models import Beit, build, config_of
from vitrail.weights import CheckpointError, convert, load_checkpoint, load_pretrained
from vitrail.weights.formats import recognise

NAME = "beit_base_patch16_224"
SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 2}
TABLE = "relative_position_bias_table"


def model(**options: object) -> Beit:
    torch.manual_seed(0)
    made = build(config_of(NAME, {**SIZES, "img_size": 64, "num_classes": 5, **options}))
    assert isinstance(made, Beit)
    perturb(made)
    return made


def official(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names as BEiT's authors have them, with the indices that they store."""
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        name = (
            name.replace("attn.position_bias.", "attn.").replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")
        )
        name = name.replace("qkv.q_bias", "q_bias").replace("qkv.v_bias", "v_bias")
        out[name] = tensor.view(1, 1, -1) if name == "mask_token" else tensor
        if name.endswith(TABLE):
            out[name.replace("bias_table", "index")] = torch.zeros(17, 17, dtype=torch.long)
    return out


@pytest.mark.parametrize("options", [{}, {"layer_scale": None}, {"img_size": 96, "in_channels": 4}])
def test_the_authors_fine_tuned_files(options: dict, tmp_path: Path) -> None:
    expected = model(**options)
    torch.save({"model": official(state(expected))}, tmp_path / "beit.pth")
    assert_reads(
        tmp_path / "beit.pth",
        expected,
        pool="mean",
        pool_norm=True,
        norm_eps=1e-6,
        num_heads=2,
        img_size=expected.img_size[0],
    )
    loaded = load_checkpoint(tmp_path / "beit.pth")
    assert set(loaded.account.dropped) == {f"blocks.{i}.attn.relative_position_index" for i in range(2)}
    if not options:
        assert loaded.preprocess.mean == HALF_MEAN and any("HALF" in n or "0.5" in n for n in loaded.account.notes)


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """The authors' pretraining checkpoint: one table, a mask token, a norm, the head of masked modelling."""
    weights = official(state(model(num_classes=0, shared_bias=True, mask_token=True, pool="class", pool_norm=False)))
    head = {"lm_head.weight": torch.ones(7, 32), "lm_head.bias": torch.ones(7)}
    torch.save({"model": {**weights, **head}}, tmp_path / "pt.pth")
    return tmp_path / "pt.pth"


def test_the_authors_pretraining_files(pretrained: Path) -> None:
    expected = model(num_classes=0, shared_bias=True, mask_token=True, pool="class", pool_norm=False)
    assert_reads(pretrained, expected, shared_bias=True, mask_token=True, pool="class", pool_norm=False)
    dropped = set(load_checkpoint(pretrained).account.dropped)
    assert dropped == {"lm_head.weight", "lm_head.bias", "rel_pos_bias.relative_position_index"}


def test_a_shared_table_is_handed_out_for_fine_tuning_at_another_size(pretrained: Path) -> None:
    source = model(num_classes=0, shared_bias=True, mask_token=True, pool="class", pool_norm=False)
    found = load_pretrained(NAME, pretrained, img_size=64, num_classes=3, pool="mean", pool_norm=True, **SIZES)
    weights = found.model.state_dict()
    for i in range(2):
        assert torch.equal(
            weights[f"blocks.{i}.attn.position_bias.{TABLE}"], source.rel_pos_bias.relative_position_bias_table
        )
    assert set(found.account.missing) == {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}
    larger = load_pretrained(NAME, pretrained, img_size=96, **SIZES).model
    assert larger.state_dict()[f"blocks.1.attn.position_bias.{TABLE}"].shape == (11 * 11 + 3, 2)
    images = pictures(96, 96)
    with torch.no_grad():
        torch.testing.assert_close(larger(images), source(images), atol=1e-5, rtol=1e-5)


def test_tables_for_each_layer_do_not_become_one(tmp_path: Path) -> None:
    torch.save({"model": official(state(model()))}, tmp_path / "beit.pth")
    with pytest.raises(CheckpointError, match="cannot become one for all"):
        load_pretrained(NAME, tmp_path / "beit.pth", img_size=64, shared_bias=True, **SIZES)


def test_authors_segmentation_files_give_their_backbone(tmp_path: Path) -> None:
    expected = model(num_classes=0, pool="class", pool_norm=False)
    weights = {f"backbone.{name}": tensor for name, tensor in official(state(expected)).items()}
    extra = {"decode_head.conv_seg.weight": torch.ones(2), "backbone.fpn1.0.weight": torch.ones(2)}
    torch.save({"state_dict": {**weights, **extra}}, tmp_path / "seg.pth")
    assert_reads(tmp_path / "seg.pth", expected)


@pytest.mark.parametrize("shared", [False, True])
def test_timm_is_read_and_written_bit_equal(shared: bool, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    options = {"use_rel_pos_bias": not shared, "use_shared_rel_pos_bias": shared}
    theirs = perturb(timm.create_model(NAME, img_size=(48, 80), num_classes=5, **SIZES, **options))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"48 rows.*config\.json"):
        load_checkpoint(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": NAME, "model_args": {"img_size": [48, 80]}}))
    assert load_checkpoint(tmp_path).model.config.grid == (3, 5)
    convert(tmp_path, tmp_path / "again", to="timm")
    before, after = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(after[name], t) for name, t in before.items())
    opened = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(opened(pictures(48, 80)), theirs(pictures(48, 80)))


HUB = {
    "layers": {"use_relative_position_bias": True},
    "shared": {"use_shared_relative_position_bias": True, "use_mask_token": True},
    "class": {"use_relative_position_bias": True, "use_mean_pooling": False},
}


def hub(folder: Path, options: dict, kind: str = "BeitForImageClassification") -> nn.Module:
    transformers = pytest.importorskip("transformers")
    numbers = {
        "image_size": 64,
        "patch_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "id2label": {i: f"kind {i}" for i in range(5)},
    }
    made = perturb(getattr(transformers, kind)(transformers.BeitConfig(**numbers, **options)))
    made.save_pretrained(folder)
    return made


@pytest.mark.parametrize("kind", HUB)
def test_transformers_files_are_read_and_written_bit_equal(kind: str, tmp_path: Path) -> None:
    theirs = hub(tmp_path / "hub", HUB[kind])
    assert any("attention.attention.query" in name for name in load_file(tmp_path / "hub" / "model.safetensors"))
    convert(tmp_path / "hub", tmp_path / "vitrail", to="vitrail")
    convert(tmp_path / "vitrail", tmp_path / "again", to="transformers")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("hub", "again"))
    assert before.keys() == after.keys() and all(torch.equal(after[name], t) for name, t in before.items())
    opened, info = type(theirs).from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert opened.config.id2label[3] == "kind 3"
    with torch.no_grad():
        assert torch.equal(opened.eval()(pictures(64, 64)).logits, theirs(pictures(64, 64)).logits)


@pytest.mark.parametrize("kind", HUB)
def test_transformers_names_in_memory(kind: str, tmp_path: Path) -> None:
    theirs = hub(tmp_path / "hub", HUB[kind])
    save_file(theirs.state_dict(), tmp_path / "memory.safetensors")
    from_files = load_checkpoint(tmp_path / "hub").model
    assert isinstance(from_files, Beit)
    assert_reads(tmp_path / "memory.safetensors", from_files)


@pytest.mark.parametrize("kind", HUB)
def test_bare_transformers_backbones(kind: str, tmp_path: Path) -> None:
    theirs = hub(tmp_path / "bare", HUB[kind], "BeitModel")
    bare = load_checkpoint(tmp_path / "bare").model
    with torch.no_grad():
        torch.testing.assert_close(bare(pictures(64, 64)), theirs(pictures(64, 64)).pooler_output, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mean", [False, True])
def test_transformers_masked_pretraining(mean: bool, tmp_path: Path) -> None:
    """Its own norm is the model's last one, unless the backbone has one already."""
    theirs = hub(tmp_path / "hub", {**HUB["shared"], "use_mean_pooling": mean}, "BeitForMaskedImageModeling")
    loaded = load_checkpoint(tmp_path / "hub")
    assert loaded.model.config.mask_token and loaded.model.config.shared_bias and not loaded.model.config.pool_norm
    dropped = {"lm_head.weight", "lm_head.bias"} | (set() if mean else {"lm_head_norm.weight", "lm_head_norm.bias"})
    assert set(loaded.account.dropped) == dropped
    images = pictures(64, 64)
    with torch.no_grad():
        expected = theirs.beit(images).last_hidden_state
        expected = theirs.layernorm(expected) if mean else expected
        torch.testing.assert_close(loaded.model.features(images).values, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"pool": "attention", "pool_norm": False}, "reads that token or the mean"), ({"registers": 2}, "no registers")],
)
@pytest.mark.parametrize("to", ["timm", "transformers"])
def test_what_other_libraries_lack_is_refused(options: dict, reason: str, to: str, tmp_path: Path) -> None:
    from vitrail.data import Preprocess
    from vitrail.weights import Artefact

    Artefact(model(**options), (), Preprocess(size=(64, 64))).save_pretrained(tmp_path / "a")
    with pytest.raises(CheckpointError, match=reason):
        convert(tmp_path / "a", tmp_path / "out", to=to)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["blocks.1.attn.proj.bias", f"blocks.0.attn.{TABLE}", "fc_norm.bias", "blocks.1.gamma_2"]
)
def test_a_missing_tensor_is_an_error(name: str, tmp_path: Path) -> None:
    weights = official(state(model()))
    del weights[name]
    torch.save({"model": weights}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth.*(incomplete|no known)"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_tensor_nobody_knows_is_an_error_that_names_it(tmp_path: Path) -> None:
    weights = official(state(model()))
    torch.save({"model": {**weights, "cls_pt_layers.0.gamma_1": torch.ones(32)}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth.*cls_pt_layers"):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (("mask_token", "cls_token", f"rel_pos_bias.{TABLE}"), "BEiT by its authors"),
        (("mask_token", "cls_token", f"blocks.0.attn.{TABLE}"), "BEiT by its authors"),
        (("beit.embeddings.cls_token", f"beit.encoder.relative_position_bias.{TABLE}"), "Transformers (beit)"),
        (("embeddings.cls_token", f"layers.0.relative_position_bias.{TABLE}"), "Transformers (beit)"),
    ],
)
def test_recognition(keys: tuple[str, ...], name: str) -> None:
    common = {"blocks.0.attn.qkv.weight", "blocks.0.attn.q_bias", "patch_embed.proj.weight"}
    others = {"beit.embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.projection.weight"}
    assert recognise({*keys, *(common if "cls_token" in keys else others)}).name.startswith(name)
