"""Transformers, open_clip and timm as oracles of CLIP and SigLIP: towers, logits, gradients; names read and written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vitrail.models import DualEncoder, ImageTower
from vitrail.weights import CheckpointError, convert, create_model, load_checkpoint, load_pretrained

from .peers import assert_same, perturb, pictures, save
from .siglip_npz import siglip_npz

transformers = pytest.importorskip("transformers")

VISION = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 9,
    "eos_token_id": 49,
    "bos_token_id": 48,
    "pad_token_id": 1,
}
KINDS = {
    "clip": {},
    "clip_exact_gelu": {"hidden_act": "gelu"},
    "siglip": {},
}


def peer(kind: str) -> nn.Module:
    """A tiny pair of Transformers', every parameter away from its initial value."""
    options = KINDS[kind]
    if kind.startswith("clip"):
        config = transformers.CLIPConfig(
            vision_config={**VISION, **options}, text_config={**TEXT, **options}, projection_dim=16
        )
        return perturb(transformers.CLIPModel(config))
    config = transformers.SiglipConfig(vision_config=VISION, text_config={**TEXT, "projection_size": 32})
    return perturb(transformers.SiglipModel(config))


def load(theirs: nn.Module, folder: Path) -> DualEncoder:
    theirs.save_pretrained(folder)
    model = load_checkpoint(folder).model
    assert isinstance(model, DualEncoder)
    return model


def words(count: int = 3, length: int = 9, vocab: int = 50) -> Tensor:
    """Sentences of different lengths, each ended by the last number of the vocabulary."""
    ids = torch.randint(2, vocab - 2, (count, length), generator=torch.Generator().manual_seed(3))
    for row in range(count):
        ids[row, length - 1 - row :] = vocab - 1
    return ids


# ---------------------------------------------------------------------- Transformers


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_equal_transformers(kind: str, tmp_path: Path) -> None:
    theirs = peer(kind)
    ours = load(theirs, tmp_path / "hub")
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    ids = words()
    mine, peers = dict(ours.named_parameters()), dict(theirs.named_parameters())
    pairs = {
        "image.pos_embed": "vision_model.embeddings.position_embedding.weight",
        "image.blocks.1.mlp.fc1.weight": "vision_model.encoder.layers.1.mlp.fc1.weight",
        "text.token_embed.weight": "text_model.embeddings.token_embedding.weight",
        "text.blocks.0.attn.proj.weight": "text_model.encoder.layers.0.self_attn.out_proj.weight",
        "logit_scale": "logit_scale",
    }
    assert_same(
        lambda x: ours(x, ids),
        lambda x: theirs(pixel_values=x, input_ids=ids).logits_per_image,
        pictures(32, 32),
        {name: mine[name] for name in pairs},
        {name: peers[theirs_name] for name, theirs_name in pairs.items()},
    )


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("size", [(48, 48), (24, 40)])
def test_other_sizes_equal_transformers(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs = peer(kind)
    ours = load(theirs, tmp_path / "hub")
    with torch.no_grad():
        expected = theirs(pixel_values=pictures(*size), input_ids=words(), interpolate_pos_encoding=True)
        found = ours(pictures(*size), words())
        torch.testing.assert_close(found, expected.logits_per_image, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.embed_images(pictures(*size)), expected.image_embeds, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.embed_texts(words()), expected.text_embeds, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_features_after_every_block_equal_transformers(kind: str, tmp_path: Path) -> None:
    theirs = peer(kind)
    ours = load(theirs, tmp_path / "hub")
    with torch.no_grad():
        image = theirs.vision_model(pictures(32, 32), output_hidden_states=True)
        text = theirs.text_model(words(), output_hidden_states=True)
        taps = ours.intermediates(pictures(32, 32), [0, 1], norm=False)
        for tap, hidden in zip(taps, image.hidden_states[1:], strict=True):
            torch.testing.assert_close(tap.values, hidden, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(ours.text.features(words()).values, text.last_hidden_state, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.image(pictures(32, 32)), image.pooler_output, atol=1e-4, rtol=1e-5)


def test_the_last_word_counts_in_siglip_and_nothing_after_the_end_in_clip(tmp_path: Path) -> None:
    clip, siglip = (load(peer(kind), tmp_path / kind) for kind in ("clip", "siglip"))
    ids, changed = words(2), words(2)
    changed[1, -1] = 5  # Behind the first end of the second sentence.
    with torch.no_grad():
        assert torch.equal(clip.embed_texts(ids), clip.embed_texts(changed))
        assert not torch.allclose(siglip.embed_texts(ids)[1], siglip.embed_texts(changed)[1])
        assert clip.probabilities(clip(pictures(32, 32), ids)).sum(1) == pytest.approx([1.0, 1.0])
        logits = siglip(pictures(32, 32), ids)
        assert torch.equal(siglip.probabilities(logits), logits.sigmoid())


@pytest.mark.parametrize("kind", ["CLIPVisionModel", "CLIPVisionModelWithProjection", "SiglipVisionModel"])
@pytest.mark.parametrize("named", [True, False])
def test_image_towers_alone_equal_transformers(kind: str, named: bool, tmp_path: Path) -> None:
    """With a config.json beside them and without; as new files name them, and old ones."""
    config = getattr(transformers, f"{kind.split('Vision')[0]}VisionConfig")(
        **VISION, **({"projection_dim": 16} if "CLIP" in kind else {})
    )
    theirs = perturb(getattr(transformers, kind)(config))
    if named:
        theirs.save_pretrained(tmp_path)
    else:
        old = {f"vision_model.{n.removeprefix('vision_model.')}": t for n, t in theirs.state_dict().items()}
        old = {n.replace("vision_model.visual", "visual"): t for n, t in old.items()}
        torch.save({**old, "vision_model.embeddings.position_ids": torch.arange(17)}, tmp_path / "pytorch_model.bin")
        heads = {"num_attention_heads": 4, "image_size": 32}
        (tmp_path / "config.json").write_text(json.dumps({"vision_config": heads}))
    loaded = load_checkpoint(tmp_path)
    assert isinstance(loaded.model, ImageTower)
    with torch.no_grad():
        expected, found = theirs(pictures(32, 32)), loaded.model(pictures(32, 32))
        if kind == "CLIPVisionModelWithProjection":
            torch.testing.assert_close(theirs.visual_projection(found), expected.image_embeds, atol=1e-4, rtol=1e-5)
        else:
            torch.testing.assert_close(found, expected.pooler_output, atol=1e-4, rtol=1e-5)
    seen = {part for name in (*loaded.account.translated, *loaded.account.dropped) for part in name.split("+")}
    if named:
        assert seen == set(load_file(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("pooled", [True, False])
def test_siglips_classifier_equals_transformers(pooled: bool, tmp_path: Path) -> None:
    names = {"id2label": {0: "cat", 1: "dog", 2: "fox"}, "label2id": {"cat": 0, "dog": 1, "fox": 2}}
    vision = {**VISION, "vision_use_head": pooled}
    config = transformers.SiglipConfig(vision_config=vision, text_config=TEXT, **names)
    theirs = perturb(transformers.SiglipForImageClassification(config))
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_checkpoint(tmp_path / "theirs")
    assert isinstance(loaded.model, ImageTower) and loaded.classes == ("cat", "dog", "fox")
    assert all(".head." in name or name.startswith("head.") for name in loaded.account.dropped)
    assert bool(loaded.account.dropped) == pooled
    convert(tmp_path / "theirs", tmp_path / "ours", to="vitrail")
    for model in (loaded.model, load_checkpoint(tmp_path / "ours").model):
        with torch.no_grad():
            torch.testing.assert_close(model(pictures(32, 32)), theirs(pictures(32, 32)).logits, atol=1e-4, rtol=0)
    assert loaded.preprocess.resize == "squash" and loaded.preprocess.mean == (0.5, 0.5, 0.5)


def test_clips_classifier_is_refused_with_the_reason(tmp_path: Path) -> None:
    config = transformers.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=16, num_labels=3)
    transformers.CLIPForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="the mean of the patches before the last norm"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_written_for_transformers_opens_there_bit_equal(kind: str, tmp_path: Path) -> None:
    theirs = peer(kind)
    theirs.save_pretrained(tmp_path / "hub")
    convert(tmp_path / "hub", tmp_path / "vitrail", to="vitrail")
    convert(tmp_path / "vitrail", tmp_path / "again", to="transformers")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("hub", "again"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) and after[name].shape == tensor.shape, name
    opened, info = type(theirs).from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    with torch.no_grad():
        ours, wanted = (m.eval()(pixel_values=pictures(32, 32), input_ids=words()) for m in (opened, theirs))
    assert torch.equal(ours.logits_per_image, wanted.logits_per_image)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "again")
    assert type(processor).__name__.startswith("CLIP" if kind == "clip" else "Siglip")
    assert load_checkpoint(tmp_path / "again").preprocess == load_checkpoint(tmp_path / "vitrail").preprocess


# ---------------------------------------------------------------------- open_clip and OpenAI


def open_clip_pair(quick: bool = True) -> nn.Module:
    open_clip = pytest.importorskip("open_clip")
    vision = open_clip.CLIPVisionCfg(layers=2, width=64, head_width=32, patch_size=8, image_size=32)
    text = open_clip.CLIPTextCfg(context_length=9, vocab_size=50, width=64, heads=4, layers=2)
    model = open_clip.model.CLIP(16, vision, text, quick_gelu=quick)
    return perturb(model)


def describe(folder: Path, quick: bool) -> None:
    """open_clip's own account of :func:`open_clip_pair`."""
    model = {
        "embed_dim": 16,
        "quick_gelu": quick,
        "vision_cfg": {"width": 64, "head_width": 32, "image_size": 32},
        "text_cfg": {"heads": 4, "width": 64},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))


@pytest.mark.parametrize("quick", [True, False])
def test_logits_and_gradients_equal_open_clip(quick: bool, tmp_path: Path) -> None:
    theirs = open_clip_pair(quick)
    describe(tmp_path, quick)
    loaded = load_checkpoint(save(theirs, tmp_path / "open_clip_model.safetensors"))
    ours, ids = loaded.model, words()
    assert ours.config.activation == ("quick_gelu" if quick else "gelu") and ours.config.text_heads == 4
    mine, peers = dict(ours.named_parameters()), dict(theirs.named_parameters())
    pairs = {"image.pos_embed": "visual.positional_embedding", "text.pos_embed": "positional_embedding"}
    assert_same(
        lambda x: ours(x, ids),
        lambda x: theirs.get_logits(x, ids)[0],
        pictures(32, 32),
        {name: mine[name] for name in pairs},
        {name: peers[theirs_name] for name, theirs_name in pairs.items()},
    )
    assert not loaded.account.notes


def test_openai_state_dict_is_known_by_its_numbers_and_an_unknown_one_says_what_is_assumed(tmp_path: Path) -> None:
    theirs = open_clip_pair()
    tensors = dict(theirs.state_dict())
    numbers = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(9), "vocab_size": torch.tensor(50)}
    torch.save({**tensors, **numbers}, tmp_path / "openai.pt")
    torch.save(tensors, tmp_path / "unknown.pt")
    openai, unknown = (load_checkpoint(tmp_path / f"{name}.pt") for name in ("openai", "unknown"))
    assert openai.model.config.activation == unknown.model.config.activation == "quick_gelu"
    assert set(openai.account.dropped) == set(numbers)
    assert "activation='gelu'" in str(unknown.account) and "activation='gelu'" not in str(openai.account)
    assert openai.preprocess.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    other = create_model(str(tmp_path / "unknown.pt"), pretrained=True, activation="gelu")
    assert other.config.activation == "gelu"
    assert torch.equal(other.text_proj.weight, theirs.text_projection.T)


def test_the_compiled_archive_of_openai_is_refused_with_a_way_out(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "ViT-B-32.pt")
    with pytest.raises(CheckpointError, match=r"ViT-B-32\.pt: a TorchScript archive.*torch\.jit\.load"):
        load_checkpoint(tmp_path / "ViT-B-32.pt")


def open_clip_siglip(tower: nn.Module) -> nn.Module:
    """open_clip's pair with an image tower of timm's, in the tanh form of the GELU that the authors trained with."""
    open_clip = pytest.importorskip("open_clip")
    text = open_clip.CLIPTextCfg(
        context_length=9,
        vocab_size=50,
        width=64,
        heads=1,
        layers=2,
        no_causal_mask=True,
        proj_bias=True,
        pool_type="last",
        norm_kwargs={"eps": 1e-6},
        act_kwargs={"approximate": "tanh"},
    )
    vision = open_clip.CLIPVisionCfg(layers=2, width=64, patch_size=8, image_size=32)
    model = open_clip.model.CustomTextCLIP(64, vision, text, init_logit_bias=-10.0)
    model.visual = nn.Module()
    model.visual.trunk = tower
    model.visual.forward = tower.forward
    return perturb(model)


def timm_siglip() -> nn.Module:
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
    return timm.create_model("vit_base_patch16_siglip_224", act_layer="gelu_tanh", **sizes)


def test_siglip_of_open_clip_equals_it(tmp_path: Path) -> None:
    theirs = open_clip_siglip(timm_siglip())
    ours, ids = load_checkpoint(save(theirs, tmp_path / "open_clip_model.safetensors")).model, words()
    assert isinstance(ours, DualEncoder) and ours.config.loss == "sigmoid" and not ours.config.image_projection
    assert_same(lambda x: ours(x, ids), lambda x: theirs.get_logits(x, ids)[0], pictures(32, 32), {}, {})


@pytest.mark.parametrize(("prefix", "stacked"), [("params/", True), ("params/", False), ("", True)])
def test_siglip_npz_equals_what_open_clip_reads_from_it(prefix: str, stacked: bool, tmp_path: Path) -> None:
    convert_module = pytest.importorskip("open_clip.convert")
    arrays = siglip_npz(prefix, stacked)
    np.savez(tmp_path / "siglip.npz", **arrays)
    theirs = open_clip_siglip(timm_siglip())
    convert_module.load_big_vision_weights(theirs, str(tmp_path / "siglip.npz"))
    loaded = load_checkpoint(tmp_path / "siglip.npz")
    assert isinstance(loaded.model, DualEncoder)
    assert loaded.preprocess.resize == "squash" and loaded.preprocess.mean == (0.5, 0.5, 0.5)
    with torch.no_grad():
        expected = theirs.eval().get_logits(pictures(32, 32), words())[0]
        torch.testing.assert_close(loaded.model(pictures(32, 32), words()), expected, atol=1e-4, rtol=0)


# ---------------------------------------------------------------------- timm


@pytest.mark.parametrize("name", ["vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_clip_224"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_clip_image_towers_of_timm(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 5}
    theirs = perturb(timm.create_model(name, dynamic_img_size=True, **sizes))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name, "model_args": {"num_heads": 1}}))
    ours = load_checkpoint(save(theirs, tmp_path / "model.safetensors")).model
    assert isinstance(ours, ImageTower) and ours.num_classes == 5
    mine, peers = dict(ours.named_parameters()), dict(theirs.named_parameters())
    shared = ("cls_token", "pos_embed", "norm_pre.bias", "head.weight")
    assert_same(ours, theirs, pictures(*size), {n: mine[n] for n in shared}, {n: peers[n] for n in shared})


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_image_tower_of_a_pair_opens_in_timm(kind: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = peer(kind)
    ours = load(theirs, tmp_path / "hub")
    account = convert(tmp_path / "hub", tmp_path / "timm", to="timm")
    opened = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    with torch.no_grad():
        expected = ours.image_proj(ours.image(pictures(32, 32)))
        torch.testing.assert_close(opened(pictures(32, 32)), expected, atol=1e-4, rtol=1e-5)
    assert any("timm has image towers alone" in reason for reason in account.dropped.values())
    if kind == "clip":
        back = load_checkpoint(tmp_path / "timm").model
        assert isinstance(back, ImageTower) and back.config.activation == "quick_gelu"
        assert all(torch.equal(t, back.state_dict()[name]) for name, t in ours.image.state_dict().items())
        assert torch.equal(back.head.weight, ours.image_proj.weight)


def test_a_tower_asked_for_by_name_is_taken_out_of_a_pair_or_a_vision_transformer(tmp_path: Path) -> None:
    config = transformers.SiglipConfig(
        vision_config={"hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12, "image_size": 32},
        text_config={**TEXT, "projection_size": 768},
    )
    theirs = perturb(transformers.SiglipModel(config))
    theirs.save_pretrained(tmp_path / "hub")
    options = {"depth": 1, "img_size": 32, "num_classes": 3}
    loaded = load_pretrained("vit_base_patch16_siglip_224", tmp_path / "hub", **options)
    assert isinstance(loaded.model, ImageTower) and loaded.model.num_classes == 3
    convert(tmp_path / "hub", tmp_path / "timm", to="timm")
    other = load_pretrained("vit_base_patch16_siglip_224", tmp_path / "timm", **options)
    with torch.no_grad():
        expected = theirs.vision_model(pictures(32, 32)).pooler_output
        for model in (loaded.model, other.model):
            assert isinstance(model, ImageTower)
            found = model.pool(model.features(pictures(32, 32)))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    reasons = set(loaded.account.dropped.values())
    assert any("rest of a pair" in reason for reason in reasons)
