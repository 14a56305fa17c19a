"""MAE's files: by its authors and in both namings of Transformers; the whole model, or its encoder as a ViT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitrail.data import Preprocess
from vitrail.models import MAEConfig, MaskedAutoencoder, VisionTransformer
from vitrail.weights import Artefact, CheckpointError, convert, create_model, load_checkpoint
from vitrail.weights.load import load_pretrained

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
DECODER = {"decoder_embed_dim": 64, "decoder_depth": 1, "decoder_num_heads": 1}


def model(**options: object) -> MaskedAutoencoder:
    """A small one with every parameter away from its initial value."""
    torch.manual_seed(0)
    made = MaskedAutoencoder(MAEConfig(**{**SIZES, **DECODER, **options}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def official(made: MaskedAutoencoder) -> dict[str, Tensor]:
    """Its weights by the authors' names."""
    out = {}
    for name, tensor in made.state_dict().items():
        name = name.replace("decoder.mask_token", "mask_token").removeprefix("encoder.")
        out[name.replace("decoder.", "decoder_", 1) if name.startswith("decoder.") else name] = tensor.clone()
    return out


def hub(made: MaskedAutoencoder) -> dict[str, Tensor]:
    """Its weights as Transformers' files on the hub have them."""
    inside = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    top = {
        "encoder.cls_token": "vit.embeddings.cls_token",
        "encoder.pos_embed": "vit.embeddings.position_embeddings",
        "encoder.patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "encoder.norm": "vit.layernorm",
        "decoder_pos_embed": "decoder.decoder_pos_embed",
        "decoder.embed": "decoder.decoder_embed",
        "decoder.norm": "decoder.decoder_norm",
        "decoder.pred": "decoder.decoder_pred",
    }
    out = {}
    for name, tensor in made.state_dict().items():
        stem, kind = name.rsplit(".", 1) if name.endswith(("weight", "bias")) else (name, "")
        if ".blocks." not in stem:
            out[f"{top.get(stem, stem)}{'.' * bool(kind)}{kind}"] = tensor.clone()
            continue
        half, _, number, part = stem.split(".", 3)
        layer = f"vit.encoder.layer.{number}" if half == "encoder" else f"decoder.decoder_layers.{number}"
        if part == "attn.qkv":
            for role, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[f"{layer}.attention.attention.{role}.{kind}"] = piece.clone()
        else:
            out[f"{layer}.{inside[part]}.{kind}"] = tensor.clone()
    return out


def write(made: MaskedAutoencoder, layout: str, folder: Path) -> Path:
    """A file of a layout."""
    folder.mkdir(exist_ok=True)
    if layout == "official":
        file = folder / "mae_visualize.pth"
        torch.save({"model": official(made), "epoch": 3}, file)
        return file
    if layout == "artefact":
        Artefact(made, (), Preprocess(size=(32, 32))).save_pretrained(folder / "artefact")
        return folder / "artefact"
    save_file(hub(made), folder / "model.safetensors")
    return folder / "model.safetensors"


every_layout = pytest.mark.parametrize("layout", ["official", "hub", "artefact"])


@every_layout
def test_every_layout_reads_to_the_same_autoencoder(layout: str, tmp_path: Path) -> None:
    made = model()
    loaded = load_checkpoint(write(made, layout, tmp_path))
    again = loaded.model
    assert isinstance(again, MaskedAutoencoder)
    assert again.state_dict().keys() == made.state_dict().keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, made.state_dict()[name]), name
    assert again.config.norm_eps == (1e-12 if layout == "hub" else 1e-6) and again.config.pos_resize == "bicubic"
    assert not loaded.account.dropped and not loaded.account.missing
    inputs = made.example_inputs(2)
    if layout != "hub":
        assert torch.equal(again(*inputs), made(*inputs))


@every_layout
def test_a_vit_takes_the_encoder_and_says_what_it_left(layout: str, tmp_path: Path) -> None:
    made = model(norm_eps=1e-12 if layout == "hub" else 1e-6)
    loaded = load_pretrained("vit_tiny_patch16_224", write(made, layout, tmp_path), **SIZES)
    vit = loaded.model
    assert isinstance(vit, VisionTransformer) and vit.num_classes == 0
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(vit.features(images).values, made.encoder.features(images).values, atol=1e-5, rtol=1e-5)
    stored = {"official": official(made), "hub": hub(made), "artefact": dict(made.state_dict())}[layout]
    left = {name for name in stored if "decoder" in name or name == "mask_token"}
    dropped = {part for joined in loaded.account.dropped for part in joined.split("+")}
    assert dropped == left
    assert "which the encoder alone leaves behind" in str(loaded.account)
    assert set(loaded.account.translated.values()) == set(vit.state_dict())


def test_the_encoder_becomes_a_classifier_of_another_size(tmp_path: Path) -> None:
    file = write(model(), "official", tmp_path)
    options = {**SIZES, "img_size": 48, "num_classes": 3, "pool": "mean", "pool_norm": True, "in_channels": 1}
    vit = create_model("vit_tiny_patch16_224", pretrained=file, **options)
    assert isinstance(vit, VisionTransformer)
    assert vit(torch.randn(1, 1, 48, 48)).shape == (1, 3)
    assert vit.pos_embed.requires_grad and vit.pos_embed.shape[1] == 37


def test_both_position_tables_follow_another_size(tmp_path: Path) -> None:
    made = model()
    loaded = load_pretrained(write(made, "official", tmp_path), img_size=(48, 16))
    again = loaded.model.eval()
    assert loaded.account.changed.keys() == {"encoder.pos_embed", "decoder_pos_embed"}
    images = torch.randn(1, 3, 48, 16)
    with torch.no_grad():
        torch.testing.assert_close(again(images), made(images), atol=1e-5, rtol=1e-5)


def test_the_published_decoder_has_sixteen_heads(tmp_path: Path) -> None:
    made = model(decoder_embed_dim=512, decoder_num_heads=16)
    again = load_checkpoint(write(made, "official", tmp_path)).model
    assert again.config == made.config


def test_heads_that_do_not_follow_from_the_width_are_asked_for(tmp_path: Path) -> None:
    file = write(model(decoder_embed_dim=24, decoder_num_heads=2), "official", tmp_path)
    with pytest.raises(CheckpointError, match=r"24-wide.*decoder_num_attention_heads"):
        load_checkpoint(file)
    (tmp_path / "config.json").write_text('{"decoder_num_attention_heads": 2}')
    assert load_checkpoint(file).model.config == model(decoder_embed_dim=24, decoder_num_heads=2).config


@pytest.mark.parametrize("layout", ["official", "hub"])
@pytest.mark.parametrize("gone", ["decoder_pred", "norm.bias", "mask_token", "decoder_embed.bias"])
def test_incomplete_files_are_refused_by_name(layout: str, gone: str, tmp_path: Path) -> None:
    tensors = official(model()) if layout == "official" else hub(model())
    left = {name: tensor for name, tensor in tensors.items() if gone not in name}
    assert 0 < len(tensors) - len(left) < 8
    save_file(left, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*(missing|incomplete)"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_foreign_tensors_and_families_are_named(tmp_path: Path) -> None:
    torch.save({**official(model()), "decoder_extra.weight": torch.ones(2)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"decoder_extra\.weight"):
        load_checkpoint(tmp_path / "x.pth")
    file = write(model(), "official", tmp_path)
    with pytest.raises(CheckpointError, match=r"another family.*MAEConfig.*VideoConfig"):
        create_model("videomae_base_patch16_224", pretrained=file)
    with pytest.raises(CheckpointError, match=r"decoder_depth 1 \(asked for: 8\)"):
        create_model("mae_vit_base_patch16_224", pretrained=file)


@pytest.mark.parametrize("wrong", [{"model_type": "vit"}, {"model_type": "vit_mae", "hidden_act": "quick_gelu"}])
def test_a_config_that_contradicts_the_tensors_is_refused(wrong: dict, tmp_path: Path) -> None:
    file = write(model(), "hub", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(wrong))
    with pytest.raises(CheckpointError, match=list(wrong.values())[-1]):
        load_checkpoint(file)


def test_written_for_transformers_opens_there_and_reads_back_bit_equal(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made = model(num_heads=4, decoder_num_heads=2, mask_ratio=0.5)
    source = write(made, "artefact", tmp_path)
    convert(source, tmp_path / "hub", to="transformers")
    written = load_file(tmp_path / "hub" / "model.safetensors")
    assert written.keys() == hub(made).keys()
    assert all(torch.equal(tensor, hub(made)[name]) for name, tensor in written.items())
    opened, info = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "hub", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    images = torch.randn(2, 3, 32, 32)
    noise = torch.rand(2, 16)
    with torch.no_grad():
        expected = opened.eval()(images, noise=noise)
        found = made(images, noise.argsort(dim=1)[:, :8])
    assert expected.mask.sum() == 16, "the share that is hidden travels along"
    torch.testing.assert_close(found, expected.logits, atol=1e-4, rtol=0)
    convert(tmp_path / "hub", tmp_path / "again", to="vitrail")
    again = load_checkpoint(tmp_path / "again").model
    assert again.config == made.config
    assert all(torch.equal(tensor, made.state_dict()[name]) for name, tensor in again.state_dict().items())
    # What Transformers itself saves again (with names of its own for the decoder) is read too.
    opened.save_pretrained(tmp_path / "theirs")
    theirs = load_checkpoint(tmp_path / "theirs").model
    assert all(torch.equal(tensor, made.state_dict()[name]) for name, tensor in theirs.state_dict().items())


def test_timm_gets_the_encoder(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    made = model(embed_dim=192, num_heads=3, patch_size=16, img_size=64)
    account = convert(write(made, "official", tmp_path), tmp_path / "timm", to="timm")
    opened = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            opened.forward_features(images), made.encoder.features(images).values, atol=1e-4, rtol=0
        )
    assert "decoder.pred.weight" in account.dropped


def test_pictures_that_transformers_cannot_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not square"):
        convert(write(model(img_size=(32, 16)), "artefact", tmp_path), tmp_path / "hub", to="transformers")
