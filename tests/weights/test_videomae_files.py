"""VideoMAE's files: by its authors and in both namings of Transformers; pretraining, encoder and classifier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitrail.data import Preprocess
from vitrail.models import MaskedVideoAutoencoder, VideoConfig, VideoMAEConfig, VideoTransformer
from vitrail.nn.masking import keep_of, mask_of
from vitrail.nn.tokens import take_patches
from vitrail.weights import Artefact, CheckpointError, convert, create_model, load_checkpoint
from vitrail.weights.load import load_pretrained

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "frames": 4}
DECODER = {"decoder_embed_dim": 64, "decoder_depth": 1, "decoder_num_heads": 1}
CLIP = {"image_size": 32, "num_frames": 4}
"""What a ``config.json`` says of the clips."""


def perturbed(made: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made.eval()


def pretraining(**options: object) -> MaskedVideoAutoencoder:
    made = perturbed(MaskedVideoAutoencoder(VideoMAEConfig(**{**SIZES, **DECODER, **options})))
    assert isinstance(made, MaskedVideoAutoencoder)
    return made


def classifier(**options: object) -> VideoTransformer:
    made = perturbed(VideoTransformer(VideoConfig(**{**SIZES, "num_classes": 5, **options})))
    assert isinstance(made, VideoTransformer)
    return made


def official(made: nn.Module, prefix: str = "encoder.") -> dict[str, Tensor]:
    """Weights by the authors' names; ``prefix`` stands before the names of a pretraining file's encoder."""
    names = {
        "decoder.embed.weight": "encoder_to_decoder.weight",
        "decoder.mask_token": "mask_token",
        "decoder.pred.weight": "decoder.head.weight",
        "decoder.pred.bias": "decoder.head.bias",
    }
    out = {}
    for name, tensor in made.state_dict().items():
        name = names.get(name, name).replace("qkv.q_bias", "q_bias").replace("qkv.v_bias", "v_bias")
        out[name.replace("encoder.", prefix, 1) if name.startswith("encoder.") else name] = tensor.clone()
    return out


def hub(made: nn.Module, prefix: str = "videomae.") -> dict[str, Tensor]:
    """Weights as Transformers' files on the hub have them."""
    inside = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
        "attn.qkv": "attention.attention",
    }
    top = {"patch_embed.proj": f"{prefix}embeddings.patch_embeddings.projection", "norm": f"{prefix}layernorm"}
    top |= {"head": "classifier", "decoder.embed": "encoder_to_decoder", "decoder.pred": "decoder.head"}
    out = {}
    for name, tensor in made.state_dict().items():
        stem, kind = name.rsplit(".", 1)
        stem = stem.removeprefix("encoder.")
        if name == "decoder.mask_token":
            out["mask_token"] = tensor.clone()
        elif "blocks." not in stem:
            out[f"{top.get(stem, stem)}.{kind}"] = tensor.clone()
        else:
            inner = stem.startswith("decoder.")
            number, part = stem.removeprefix("decoder.").removeprefix("blocks.").split(".", 1)
            layer = f"decoder.decoder_layers.{number}" if inner else f"{prefix}encoder.layer.{number}"
            if part == "attn.qkv" and kind == "weight":
                for role, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    out[f"{layer}.{inside[part]}.{role}.weight"] = piece.clone()
            else:
                out[f"{layer}.{inside[part]}.{kind}"] = tensor.clone()
    return out


def save(tensors: dict[str, Tensor], folder: Path, config: dict | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CLIP if config is None else config))
    return folder / "model.safetensors"


def assert_reads(file: Path, made: VideoTransformer | MaskedVideoAutoencoder) -> None:
    """The file holds exactly this model."""
    loaded = load_checkpoint(file)
    again = loaded.model
    assert type(again) is type(made) and again.state_dict().keys() == made.state_dict().keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, made.state_dict()[name]), name
    assert not loaded.account.dropped and not loaded.account.missing
    inputs = made.example_inputs(2)
    torch.testing.assert_close(again(*inputs), made(*inputs), atol=2e-3, rtol=1e-3)


def test_pretraining_reads_the_same_in_both_layouts(tmp_path: Path) -> None:
    made = pretraining()
    assert_reads(save(official(made), tmp_path / "official"), made)
    assert_reads(save(hub(made), tmp_path / "hub"), made)
    torch.save({"model": official(made), "epoch": 1600}, tmp_path / "official" / "checkpoint.pth")
    assert_reads(tmp_path / "official" / "checkpoint.pth", made)
    loaded = load_checkpoint(tmp_path / "official" / "checkpoint.pth").model
    assert loaded.config == made.config
    inputs = made.example_inputs(2)
    assert torch.equal(loaded(*inputs), made(*inputs))


def test_classifiers_read_the_same_in_both_layouts(tmp_path: Path) -> None:
    made = classifier()
    assert_reads(save(official(made), tmp_path / "official"), made)
    assert_reads(save(hub(made), tmp_path / "hub"), made)
    torch.save({"module": official(made)}, tmp_path / "official" / "checkpoint.pth")
    assert_reads(tmp_path / "official" / "checkpoint.pth", made)


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_an_encoder_may_have_its_prefix_or_not(prefix: str, tmp_path: Path) -> None:
    made = pretraining().encoder
    assert isinstance(made, VideoTransformer)
    tensors = {f"{prefix}{name}": tensor for name, tensor in official(made).items()}
    assert_reads(save(tensors, tmp_path / "official"), made)
    assert_reads(save(hub(made, "" if prefix else "videomae."), tmp_path / "hub"), made)


def test_the_size_of_clips_that_no_file_says_is_assumed_and_said(tmp_path: Path) -> None:
    made = classifier()
    torch.save({"model": official(made)}, tmp_path / "checkpoint.pth")
    loaded = load_pretrained(tmp_path / "checkpoint.pth", img_size=32, frames=4)
    notes = " ".join(loaded.account.notes)
    assert "assumed are 16 frames of 224" in notes and "grid 8×28×28 to 2×4×4" in notes
    clips = made.example_inputs(2)[0]
    assert torch.equal(loaded.model(clips), made(clips))


def test_a_classifier_takes_the_encoder_of_a_pretraining_file(tmp_path: Path) -> None:
    made = pretraining()
    file = save(official(made), tmp_path / "official")
    loaded = load_pretrained("videomae_base_patch16_224", file, **SIZES)
    encoder = loaded.model
    assert isinstance(encoder, VideoTransformer) and encoder.num_classes == 0 and not encoder.config.pool_norm
    clips = made.example_inputs(2)[0]
    assert torch.equal(encoder.features(clips).values, made.encoder.features(clips).values)
    left = {name for name in official(made) if not name.startswith("encoder.")}
    assert set(loaded.account.dropped) == left
    # As the authors fine-tune it: the norm moves behind the mean and is learned anew, as the head is.
    options = {**SIZES, "num_classes": 3, "pool_norm": True, "in_channels": 4}
    loaded = load_pretrained("videomae_base_patch16_224", file, **options)
    assert set(loaded.account.missing) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert {"encoder.norm.weight", "encoder.norm.bias"} <= set(loaded.account.dropped)
    assert loaded.model(torch.randn(1, 4, 4, 32, 32)).shape == (1, 3)


def test_grey_clips_give_what_repeated_ones_gave(tmp_path: Path) -> None:
    made = classifier()
    grey = create_model(
        "videomae_base_patch16_224", pretrained=save(official(made), tmp_path), **SIZES, in_channels=1, num_classes=5
    )
    clips = torch.randn(2, 1, 4, 32, 32)
    torch.testing.assert_close(grey(clips), made(clips.expand(-1, 3, -1, -1, -1)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gone", ["encoder_to_decoder", "mask_token", "q_bias", "layer.1.output", "decoder.head.bias"])
def test_incomplete_files_are_refused_by_name(gone: str, tmp_path: Path) -> None:
    left = {name: tensor for name, tensor in hub(pretraining()).items() if gone not in name}
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(save(left, tmp_path))


def test_what_is_no_videomae_is_said(tmp_path: Path) -> None:
    tensors = official(classifier())
    flat = {**tensors, "patch_embed.proj.weight": torch.ones(64, 3, 8, 8)}
    with pytest.raises(CheckpointError, match=r"\(64, 3, 8, 8\), not the 5 dimensions of tubelets"):
        load_checkpoint(save(flat, tmp_path))
    with pytest.raises(CheckpointError, match=r"blocks\.0\.ls1\.gamma"):
        load_checkpoint(save({**tensors, "blocks.0.ls1.gamma": torch.ones(64)}, tmp_path))
    without = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc_norm")}
    with pytest.raises(CheckpointError, match="neither a norm behind the blocks nor one behind the pool"):
        load_checkpoint(save(without, tmp_path))
    first = {name: t for name, t in hub(classifier(pool_norm=False)).items() if not name.startswith("fc_norm")}
    with pytest.raises(CheckpointError, match="reads the first tubelet"):
        load_checkpoint(save(first, tmp_path))
    with pytest.raises(CheckpointError, match="quick_gelu"):
        load_checkpoint(save(hub(classifier()), tmp_path, {**CLIP, "hidden_act": "quick_gelu"}))
    with pytest.raises(CheckpointError, match="'vit'"):
        load_checkpoint(save(hub(classifier()), tmp_path, {**CLIP, "model_type": "vit"}))


@pytest.mark.parametrize("kind", ["VideoMAEForPreTraining", "VideoMAEForVideoClassification", "VideoMAEModel"])
def test_written_for_transformers_opens_there_and_reads_back_bit_equal(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    options = {"num_heads": 4, "img_size": 32}
    made: VideoTransformer | MaskedVideoAutoencoder
    if kind == "VideoMAEForPreTraining":
        made = pretraining(**options, decoder_num_heads=2, decoder_norm_eps=1e-5)
    elif kind == "VideoMAEModel":
        made = classifier(**options, num_classes=0, pool_norm=False, pool_norm_eps=1e-5)
    else:
        made = classifier(**options, pool_norm_eps=1e-5)
    classes = tuple("abcde") if made.num_classes else ()
    preprocess = Preprocess(size=(32, 32), crop=0.5)
    Artefact(made, classes, preprocess).save_pretrained(tmp_path / "artefact")
    account = convert(tmp_path / "artefact", tmp_path / "hub", to="transformers")
    assert not any("epsilon" in note for note in account.notes)
    written, wanted = (
        load_file(tmp_path / "hub" / "model.safetensors"),
        hub(made, "" if kind.endswith("l") else "videomae."),
    )
    assert written.keys() == wanted.keys() and all(torch.equal(t, wanted[n]) for n, t in written.items())
    opened, info = getattr(transformers, kind).from_pretrained(tmp_path / "hub", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    opened.eval()
    inputs = made.example_inputs(2)
    with torch.no_grad():
        if isinstance(made, MaskedVideoAutoencoder):
            mask = mask_of(inputs[1], 32)
            expected = opened(inputs[0].transpose(1, 2), bool_masked_pos=mask).logits
            found = take_patches(made(*inputs), keep_of(~mask))
        elif made.num_classes:
            expected, found = opened(inputs[0].transpose(1, 2)).logits, made(*inputs)
        else:
            expected, found = opened(inputs[0].transpose(1, 2)).last_hidden_state, made.features(inputs[0]).values
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    convert(tmp_path / "hub", tmp_path / "again", to="vitrail")
    again = load_checkpoint(tmp_path / "again")
    assert again.model.config == made.config and again.classes == classes
    assert all(torch.equal(tensor, made.state_dict()[name]) for name, tensor in again.model.state_dict().items())
    assert again.preprocess == preprocess


def test_the_written_folder_prepares_clips_in_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    Artefact(classifier(), (), Preprocess(size=(32, 32))).save_pretrained(tmp_path / "artefact")
    account = convert(tmp_path / "artefact", tmp_path / "hub", to="transformers")
    assert any("epsilon of fc_norm is 1e-06" in note for note in account.notes)
    processor = transformers.VideoMAEImageProcessor.from_pretrained(tmp_path / "hub")
    frames = [torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8).numpy() for _ in range(4)]
    assert processor(frames, return_tensors="pt")["pixel_values"].shape == (1, 4, 3, 32, 32)


def test_architectures_that_transformers_lacks_are_refused(tmp_path: Path) -> None:
    for number, (options, reason) in enumerate(
        (
            ({"pool_norm": False}, "before the pool but it has a classifier"),
            ({"registers": 2}, "besides its tubelets"),
            ({"layer_scale": 0.1}, "scaled"),
            ({"pool": "attention"}, "'attention'"),
        )
    ):
        folder = tmp_path / f"artefact{number}"
        Artefact(classifier(**options), (), Preprocess(size=(32, 32))).save_pretrained(folder)
        with pytest.raises(CheckpointError, match=reason):
            convert(folder, tmp_path / "hub", to="transformers")
