"""DETR's files: its authors' layout rebuilt, Transformers' four namings, writing for Transformers, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.ops import FrozenBatchNorm2d

from tests.models.detr_peers import peer, unsettle_norms
from tests.models.peers import perturb, pictures, save
from vitrail.data import Preprocess
from vitrail.models import Detr, DetrConfig
from vitrail.weights import Artefact, CheckpointError, convert, create_model, load_checkpoint, load_pretrained
from vitrail.weights.detr import COCO, PREPROCESS

SMALL = DetrConfig(
    depths=(1, 2, 1, 1),
    embed_dim=32,
    num_heads=1,
    encoder_depth=2,
    decoder_depth=3,
    mlp_ratio=1.5,
    num_queries=7,
    num_classes=4,
)


def model(**options: object) -> Detr:
    torch.manual_seed(0)
    made = Detr(DetrConfig(**{**SMALL.__dict__, **options}))
    perturb(made)
    unsettle_norms(made)
    return made


def of_the_authors(made: Detr) -> dict[str, Tensor]:
    """Our weights as DETR's repository stores them."""
    ours = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    theirs: dict[str, Tensor] = {}
    places = [("encoder", i, "attn", "self_attn") for i in range(made.config.encoder_depth)]
    places += [
        ("decoder", i, *pair)
        for i in range(made.config.decoder_depth)
        for pair in (("attn", "self_attn"), ("cross", "multihead_attn"))
    ]
    for kind, i, here, there in places:
        for what in ("weight", "bias"):
            joint = torch.cat([ours.pop(f"{kind}.{i}.{here}.{part}.{what}") for part in "qkv"])
            theirs[f"transformer.{kind}.layers.{i}.{there}.in_proj_{what}"] = joint
            theirs[f"transformer.{kind}.layers.{i}.{there}.out_proj.{what}"] = ours.pop(
                f"{kind}.{i}.{here}.proj.{what}"
            )
    for name, tensor in ours.items():
        top, _, rest = name.partition(".")
        if top in ("encoder", "decoder"):
            i, rest = rest.split(".", 1)
            rest = rest.replace("mlp.fc", "linear")
            theirs[f"transformer.{top}.layers.{i}.{rest}"] = tensor
        else:
            tops = {"backbone": "backbone.0.body.", "norm": "transformer.decoder.norm.", "head": ""}
            theirs[{"query_embed": "query_embed.weight"}.get(name, tops.get(top, f"{top}.") + rest)] = tensor
    return theirs


def assert_same(one: Detr, other: Detr) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


# ---------------------------------------------------------------------- the authors' .pth


def test_authors_files_read_to_the_same_weights(tmp_path: Path) -> None:
    expected = model()
    tensors = of_the_authors(expected)
    assert "transformer.decoder.layers.2.multihead_attn.in_proj_weight" in tensors
    assert "backbone.0.body.layer2.0.downsample.1.running_var" in tensors
    torch.save({"model": tensors}, tmp_path / "detr.pth")
    loaded = load_checkpoint(tmp_path / "detr.pth")
    assert isinstance(loaded.model, Detr) and loaded.model.config == SMALL
    assert_same(expected, loaded.model)
    assert loaded.preprocess == PREPROCESS and loaded.classes == ()
    account = loaded.account
    assert account.format == "DETR by its authors" and set(account.translated) == set(tensors)
    joint = account.translated["transformer.encoder.layers.0.self_attn.in_proj_bias"]
    assert joint == "encoder.0.attn.q.bias+encoder.0.attn.k.bias+encoder.0.attn.v.bias"
    images = pictures(33, 47)
    with torch.no_grad():
        assert torch.equal(loaded.model(images).boxes, expected(images).boxes)


def test_authors_layout_equals_torchs_own_attention(tmp_path: Path) -> None:
    """The order of queries, keys and values in a joint matrix, by the module that the authors use."""
    made = model()
    tensors = of_the_authors(made)
    prefix = "transformer.decoder.layers.1.multihead_attn."
    theirs = torch.nn.MultiheadAttention(32, 1, batch_first=True).eval()
    theirs.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    cross = made.decoder[1].cross
    query, key = torch.randn(2, 7, 32), torch.randn(2, 5, 32)
    with torch.no_grad():
        expected = theirs(query, key, key, need_weights=False)[0]
        q, k, v = cross.split(cross.q(query)), cross.split(cross.k(key)), cross.split(cross.v(key))
        found = cross.proj(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, expected)


def test_files_of_91_classes_have_cocos_names(tmp_path: Path) -> None:
    torch.save({"model": of_the_authors(model(num_classes=91))}, tmp_path / "detr.pth")
    loaded = load_checkpoint(tmp_path / "detr.pth")
    assert loaded.classes == COCO
    assert (COCO[1], COCO[17], COCO[90], COCO[0], COCO[12], len(COCO)) == (
        *("person", "cat", "toothbrush", "N/A", "N/A"),
        91,
    )
    assert sum(name != "N/A" for name in COCO) == 80


def test_dilation_is_the_name_s_affair_and_other_depths_are_refused(tmp_path: Path) -> None:
    torch.save({"model": of_the_authors(model(num_heads=1))}, tmp_path / "detr.pth")
    dilated = create_model(str(tmp_path / "detr.pth"), pretrained=True, dilation=True)
    assert dilated.config.dilation
    fresh = load_pretrained(tmp_path / "detr.pth", num_classes=2, in_channels=1)
    assert fresh.model.num_classes == 2 and fresh.classes == () and fresh.preprocess.bands == 1
    assert set(fresh.account.missing) == {"head.class_embed.weight", "head.class_embed.bias"}
    with pytest.raises(CheckpointError, match=r"depths \(1, 2, 1, 1\) \(asked for: \(3, 4, 6, 3\)\)"):
        create_model("detr_resnet50", pretrained=tmp_path / "detr.pth")


def test_a_stride_that_the_file_does_not_tell_is_said_until_it_is_known(tmp_path: Path) -> None:
    note = "assumed: stride in the last stage; pass dilation=True for DC5"
    expected = model(depths=(1, 1, 1, 1), dilation=True)
    torch.save({"model": of_the_authors(expected)}, tmp_path / "dc5.pth")
    guessed = load_checkpoint(tmp_path / "dc5.pth")
    assert note in guessed.account.notes and not guessed.model.config.dilation
    for told in (True, False):
        assert note not in load_pretrained(tmp_path / "dc5.pth", dilation=told).account.notes
    numbers = {name: getattr(SMALL, name) for name in ("embed_dim", "encoder_depth", "decoder_depth", "num_heads")}
    known = load_pretrained("detr_resnet50_dc5", tmp_path / "dc5.pth", **numbers, depths=(1, 1, 1, 1))
    assert known.account.notes == ["the weights are those under 'model'"]
    images = pictures(96, 128)
    with torch.no_grad():
        assert torch.equal(known.model(images).boxes, expected.eval()(images).boxes)
        assert not torch.equal(guessed.model(images).boxes, expected(images).boxes)


def test_config_json_tells_the_stride(tmp_path: Path) -> None:
    Artefact(model(depths=(2, 2, 2, 2)), (), PREPROCESS).save_pretrained(tmp_path / "m")
    convert(tmp_path / "m", tmp_path / "hf", to="transformers")
    assert not any("DC5" in note for note in load_checkpoint(tmp_path / "hf").account.notes)
    (tmp_path / "hf" / "config.json").unlink()
    assert any("DC5" in note for note in load_checkpoint(tmp_path / "hf").account.notes)


def test_heads_that_were_a_guess_give_way(tmp_path: Path) -> None:
    expected = model(num_heads=2)
    torch.save({"model": of_the_authors(expected)}, tmp_path / "detr.pth")
    assert (
        "num_heads is not in the file: 1 assumed (width / 32)" in load_checkpoint(tmp_path / "detr.pth").account.notes
    )
    right = load_pretrained(tmp_path / "detr.pth", num_heads=2)
    assert not any("num_heads" in note for note in right.account.notes)
    with torch.no_grad():
        assert torch.equal(right.model(pictures(64, 96)).boxes, expected.eval()(pictures(64, 96)).boxes)


def test_the_published_layout_fits_the_published_size(tmp_path: Path) -> None:
    """All names of the 41.5 million weights, as zeros: what the authors' file has, no more and no less."""
    with torch.device("meta"):
        made = Detr(DetrConfig())
    tensors = of_the_authors(made.to_empty(device="cpu"))
    blocks = 6 * (4 + 4 + 4) + 6 * (4 + 4 + 4 + 6) + 2
    assert len(tensors) == blocks + 53 * 5 + 1 + 2 + 2 + 6
    for tensor in tensors.values():
        tensor.zero_()
    torch.save({"model": tensors}, tmp_path / "detr-r50-e632da11.pth")
    assert load_checkpoint(tmp_path / "detr-r50-e632da11.pth").model.config == DetrConfig()


# ---------------------------------------------------------------------- Transformers


@pytest.mark.parametrize("kind", ["own", "timm"])
def test_files_and_memory_of_transformers_read_alike(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    theirs = peer(kind, d_model=64)
    theirs.save_pretrained(tmp_path / "hub")
    save(theirs, tmp_path / "memory" / "model.safetensors")
    files, memory = load_file(tmp_path / "hub" / "model.safetensors"), theirs.state_dict()
    assert "model.backbone.model." in next(name for name in memory if "backbone" in name)
    assert any("conv_encoder" in name for name in files) and files.keys() != memory.keys()
    one, other = load_checkpoint(tmp_path / "hub"), load_checkpoint(tmp_path / "memory" / "model.safetensors")
    assert_same(one.model, other.model)
    assert set(one.account.translated) == set(files) and set(other.account.translated) == set(memory)


@pytest.mark.parametrize("dilation", [False, True])
def test_written_for_transformers_opens_there_and_comes_back_bit_equal(dilation: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made = model(depths=(2, 2, 2, 2), dilation=dilation, num_heads=2)
    Artefact(made, ("a", "b", "c", "d"), PREPROCESS).save_pretrained(tmp_path / "vitrail")
    convert(tmp_path / "vitrail", tmp_path / "hub", to="transformers")
    names = load_file(tmp_path / "hub" / "model.safetensors").keys()
    assert ("model.backbone.conv_encoder.model.layer1.0.conv1.weight" in names) == dilation
    again = load_checkpoint(tmp_path / "hub")
    assert_same(made, again.model)
    assert again.model.config == made.config and again.classes == ("a", "b", "c", "d")
    assert again.preprocess == PREPROCESS
    opened, info = transformers.DetrForObjectDetection.from_pretrained(tmp_path / "hub", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    with torch.no_grad():
        expected, found = made(pictures(64, 96)), opened.eval()(pictures(64, 96))
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.pred_boxes, expected.boxes, atol=1e-4, rtol=0)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hub")
    assert dict(processor.size) == {"shortest_edge": 800, "longest_edge": 1333}


def test_a_file_that_transformers_wrote_is_written_back_with_its_names(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    peer("own").save_pretrained(tmp_path / "hub")
    convert(tmp_path / "hub", tmp_path / "again", to="transformers")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("hub", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_authors_files_become_transformers_files(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    expected = model(num_classes=91)
    torch.save({"model": of_the_authors(expected)}, tmp_path / "detr.pth")
    convert(tmp_path / "detr.pth", tmp_path / "hub", to="transformers")
    opened = transformers.DetrForObjectDetection.from_pretrained(tmp_path / "hub").eval()
    assert opened.config.id2label[17] == "cat" and opened.config.num_labels == 91
    with torch.no_grad():
        found = opened(pictures(64, 96)).logits
        torch.testing.assert_close(found, expected(pictures(64, 96)).logits, atol=1e-4, rtol=0)


def test_a_dilated_resnet_that_timm_has_no_name_for_is_refused(tmp_path: Path) -> None:
    Artefact(model(dilation=True), (), PREPROCESS).save_pretrained(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"depths \(1, 2, 1, 1\)"):
        convert(tmp_path / "m", tmp_path / "hub", to="transformers")
    with pytest.raises(Exception, match="not written for timm"):
        convert(tmp_path / "m", tmp_path / "hub", to="timm")


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"size": {"shortest_edge": 480, "longest_edge": 900}}, (480, 900)),
        ({"size": 800, "max_size": 1333, "feature_extractor_type": "DetrFeatureExtractor"}, (800, 1333)),
    ],
)
def test_processors_of_any_age_bound_the_sides(stored: dict, expected: tuple[int, int], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    peer("own").save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    assert load_checkpoint(tmp_path).preprocess == Preprocess(expected, 1.0, "bounded", "bilinear")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "conditional_detr"}, "conditional_detr"),
        ({"activation_function": "gelu"}, "gelu"),
        ({"position_embedding_type": "learned"}, "learned positions"),
        ({"decoder_attention_heads": 4}, "different numbers of heads"),
        ({"backbone_config": {"downsample_in_bottleneck": True}}, "strides in the first convolution"),
    ],
)
def test_what_config_json_says_against_it_is_heard(changes: dict, reason: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    peer("own").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(tmp_path)


# ---------------------------------------------------------------------- broken files


@pytest.mark.parametrize(
    "name",
    [
        "class_embed.weight",
        "transformer.encoder.layers.1.self_attn.in_proj_weight",
        "transformer.decoder.layers.2.norm3.bias",
        "backbone.0.body.layer3.0.bn2.running_mean",
        "bbox_embed.layers.2.weight",
        "input_proj.weight",
    ],
)
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    tensors = of_the_authors(model())
    del tensors[name]
    torch.save({"model": tensors}, tmp_path / "x.pth")
    ending = name.replace("self_attn.in_proj_weight", "attn.k.weight").split(".", 1)[-1].removeprefix("0.body.")
    ending = ending.removeprefix("encoder.layers.").removeprefix("decoder.layers.")
    with pytest.raises(CheckpointError, match=rf"x\.pth.*incomplete.*{ending}"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_tensor_nobody_knows_is_named_and_counters_of_batches_are_dropped(tmp_path: Path) -> None:
    tensors = of_the_authors(model())
    torch.save({"model": {**tensors, "transformer.level_embed": torch.ones(3)}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth.*transformer\.level_embed"):
        load_checkpoint(tmp_path / "x.pth")
    counter = "backbone.0.body.bn1.num_batches_tracked"
    torch.save({"model": {**tensors, counter: torch.tensor(3)}}, tmp_path / "x.pth")
    assert set(load_checkpoint(tmp_path / "x.pth").account.dropped) == {counter}


def test_widths_whose_heads_do_not_follow_need_a_config(tmp_path: Path) -> None:
    torch.save({"model": of_the_authors(model(embed_dim=48))}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="encoder_attention_heads"):
        load_checkpoint(tmp_path / "x.pth")


def test_the_artefact_keeps_the_constant_norms(tmp_path: Path) -> None:
    made = model()
    Artefact(made, (), PREPROCESS).save_pretrained(tmp_path / "m")
    again = load_checkpoint(tmp_path / "m").model
    assert isinstance(again, Detr)
    assert_same(made, again)
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in again.modules()) == 5 + 3 * 5
    frozen = [name for name, p in again.named_parameters() if not p.requires_grad]
    assert frozen == [name for name, p in made.named_parameters() if not p.requires_grad] != []


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in of_the_authors(model()).items()}
    save_file(tensors, tmp_path / "half.safetensors")
    loaded = load_checkpoint(tmp_path / "half.safetensors").model
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
