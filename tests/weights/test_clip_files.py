"""Files of CLIP and SigLIP: what travels with them, what they are adapted to, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.jobs.words import image_text_folder
from tests.models.tiny_clip import TINY
from vitrail.data import Preprocess
from vitrail.models import DualEncoder, build, config_of
from vitrail.nn.position import RESIZES, resize_positions
from vitrail.weights import Artefact, CheckpointError, create_model, load_artefact, load_checkpoint, load_pretrained
from vitrail.weights.preprocessing import from_transformers

pytest.importorskip("transformers")


def pair(name: str = "clip_vit_base_patch32_224") -> DualEncoder:
    torch.manual_seed(0)
    model = build(config_of(name, TINY[name]))
    assert isinstance(model, DualEncoder)
    return model.eval()


def saved(folder: Path, files: dict[str, str], seed: int = 0) -> Path:
    Artefact(pair(), (), Preprocess(size=(24, 24)), {"seed": seed}, files).save_pretrained(folder)
    return folder


# ---------------------------------------------------------------------- the artefact and its further files


@pytest.mark.parametrize("name", TINY)
def test_everything_comes_back_bit_equal(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(config_of(name, TINY[name])).eval()
    Artefact(model, (), Preprocess(size=model.img_size), files={"vocab.json": "{}\r\n"}).save_pretrained(tmp_path / "m")
    back = load_artefact(tmp_path / "m")
    inputs = model.example_inputs(2)
    with torch.no_grad():
        assert torch.equal(back.model(*inputs), model(*inputs))
    assert back.model.config == model.config and back.files == {"vocab.json": "{}\r\n"}


def test_a_file_that_is_gone_or_another_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", {"tokenizer.json": "{}", "merges.txt": "a b"})
    (folder / "merges.txt").write_text("a c")
    with pytest.raises(CheckpointError, match=r"merges\.txt: not the file that was saved with these weights"):
        load_artefact(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"merges\.txt: the model needs this file"):
        load_artefact(folder)


@pytest.mark.parametrize("name", ["../x.json", "config.json", "run.py", ".x.json", "README.md", "model.safetensors"])
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot travel with a model"):
        saved(tmp_path / "m", {name: "x"})
    folder = saved(tmp_path / "n", {"vocab.json": "x"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "files": {name: "0"}}))
    with pytest.raises(CheckpointError, match="cannot travel with a model"):
        load_artefact(folder)


@pytest.mark.parametrize("dies_at", [0, 1, 2])
def test_a_save_cut_off_among_its_files_is_whole_or_refused(
    dies_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "m", {"vocab.json": "old"})
    moves, replace = 0, Path.replace

    def dying(self: Path, target: Path) -> Path:
        nonlocal moves
        if moves == dies_at:
            raise KeyboardInterrupt
        moves += 1
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        saved(folder, {"vocab.json": "new"}, seed=1)
    monkeypatch.undo()
    if dies_at == 1:  # New words, old weights: they do not belong together.
        with pytest.raises(CheckpointError, match=r"vocab\.json: not the file"):
            load_artefact(folder)
    else:
        back = load_artefact(folder)
        assert (back.files["vocab.json"], back.training_info["seed"]) == (("old", 0) if dies_at == 0 else ("new", 1))


def test_an_artefact_without_further_files_says_nothing_of_them(tmp_path: Path) -> None:
    assert "files" not in json.loads((saved(tmp_path / "m", {}) / "config.json").read_text())


# ---------------------------------------------------------------------- what lies beside the weights


def test_vocabulary_and_merges_travel_where_there_is_no_single_file(tmp_path: Path) -> None:
    image_text_folder("clip", tmp_path)
    assert set(load_checkpoint(tmp_path).files) == {"tokenizer.json"}
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("é b", encoding="utf-8")
    assert load_checkpoint(tmp_path).files == {"vocab.json": "{}", "merges.txt": "é b"}
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"merges\.txt: cannot be read as text"):
        load_checkpoint(tmp_path)


def test_one_number_is_the_short_side_for_clip_and_both_sides_for_others() -> None:
    values = {
        "size": 224,
        "crop_size": 224,
        "do_center_crop": True,
        "resample": 3,
    }
    clip = from_transformers({**values, "feature_extractor_type": "CLIPFeatureExtractor"})
    assert (clip.resize, clip.crop, clip.size) == ("shortest", 1.0, (224, 224))
    assert from_transformers({**values, "feature_extractor_type": "DeiTFeatureExtractor"}).resize == "squash"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_file_alone_gets_its_authors_preprocessing_and_numbers(kind: str, tmp_path: Path) -> None:
    theirs = image_text_folder(kind, tmp_path / "hub")
    (tmp_path / "alone").mkdir()
    tensors = {name: tensor for name, tensor in theirs.state_dict().items() if "position_ids" not in name}
    # 64 and 128 wide are no published widths of one and two heads: 32 is.
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "alone" / "model.safetensors")
    with pytest.raises(CheckpointError, match="how many heads 32-wide tokens have"):
        load_checkpoint(tmp_path / "alone")
    heads = {"num_attention_heads": 2}
    (tmp_path / "alone" / "config.json").write_text(json.dumps({"vision_config": heads, "text_config": heads}))
    loaded = load_checkpoint(tmp_path / "alone")
    config = loaded.model.config
    assert loaded.preprocess.resize == ("shortest" if kind == "clip" else "squash")
    assert loaded.preprocess.mean[0] == pytest.approx(0.48145466 if kind == "clip" else 0.5)
    assert (config.end_token, config.clean) == ((11, "none") if kind == "clip" else (1, "canonical"))
    assert config.activation == ("quick_gelu" if kind == "clip" else "gelu_tanh")


def test_the_end_token_of_clips_first_files_is_the_highest_number(tmp_path: Path) -> None:
    image_text_folder("clip", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for stored, expected in ((2, 11), (7, 7), (49407, 11)):
        config["text_config"]["eos_token_id"] = stored
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert load_checkpoint(tmp_path).model.config.end_token == expected


def test_a_larger_vocabulary_is_its_successors() -> None:
    from vitrail.weights.account import Account
    from vitrail.weights.infer_clip import TextHints, TowerHints, infer_pair

    model = pair("siglip_vit_base_patch16_224")
    state = {**model.state_dict(), "text.token_embed.weight": torch.empty(256_000, 12, device="meta")}
    hints = TowerHints("gelu_tanh", 1e-6, "bicubic", num_heads=2)
    config = infer_pair(state, hints, TextHints(num_heads=2), Account("here", "x"))
    assert (config.pad_token, config.end_token, config.clean) == (0, 1, "lower")


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "name",
    [
        "vision_model.pre_layrnorm.bias",
        "vision_model.encoder.layers.1.mlp.fc2.weight",
        "text_model.embeddings.token_embedding.weight",
        "text_model.encoder.layers.0.self_attn.q_proj.weight",
        "visual_projection.weight",
    ],
)
def test_a_missing_tensor_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    image_text_folder("clip", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*(missing|nothing that could be|but has|must be)"):
        load_checkpoint(tmp_path)


def test_unknown_tensors_activations_and_towers_that_disagree_are_named(tmp_path: Path) -> None:
    image_text_folder("clip", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, reason in (
        ({"vision_config": {**config["vision_config"], "hidden_act": "relu"}}, "activation 'relu' is not known"),
        ({"text_config": {**config["text_config"], "hidden_act": "gelu"}}, "hidden_act is quick_gelu in its image"),
        ({"vision_config": {**config["vision_config"], "image_size": 64}}, "9 positions are not those of.*64x64"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=reason):
            load_checkpoint(tmp_path)
    save_file({**load_file(tmp_path / "model.safetensors"), "qformer.x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"qformer\.x"):
        load_checkpoint(tmp_path)


# ---------------------------------------------------------------------- adapted


def test_positions_bands_and_patches_stretch(tmp_path: Path) -> None:
    image_text_folder("clip", tmp_path)
    before = load_checkpoint(tmp_path).model
    after = create_model(str(tmp_path), pretrained=True, img_size=(64, 96), in_channels=1)
    assert isinstance(before, DualEncoder) and isinstance(after, DualEncoder)
    expected = resize_positions(before.image.pos_embed, (3, 3), (4, 6), RESIZES["bicubic"])
    assert torch.equal(after.image.pos_embed, expected) and after.img_size == (64, 96)
    grey = torch.randn(1, 1, 64, 96)
    ids = torch.tensor([[10, 2, 5, 11]])
    with torch.no_grad():
        colour = before(grey.repeat(1, 3, 1, 1), ids)
        torch.testing.assert_close(after(grey, ids), colour, atol=1e-4, rtol=1e-5)
        finer = create_model(str(tmp_path), pretrained=True, patch_size=8, img_size=24)
        assert finer(torch.randn(1, 3, 24, 24), ids).shape == (1, 1)
    assert load_pretrained(tmp_path, img_size=(64, 96)).preprocess.size == (64, 96)


def test_a_pair_has_no_classes_of_its_own(tmp_path: Path) -> None:
    image_text_folder("clip", tmp_path)
    with pytest.raises(Exception, match="its classes are texts"):
        create_model(str(tmp_path), pretrained=True, num_classes=3)


def test_a_pair_is_downloaded_with_its_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    from vitrail.weights import finding, resolve

    image_text_folder("clip", tmp_path)
    asked = []

    def download(repo: str, file: str) -> str:
        asked.append(file)
        if not (tmp_path / file).exists():
            raise EntryNotFoundError(f"no {file}")
        return str(tmp_path / file)

    monkeypatch.setattr(finding, "hf_hub_download", download)
    monkeypatch.setattr(finding, "try_to_load_from_cache", lambda *_: None)
    found = resolve("clip_vit_base_patch32_224", online=True)
    assert found.entry is not None and found.entry.repo == "openai/clip-vit-base-patch32"
    assert asked == ["model.safetensors", "config.json", "preprocessor_config.json", *finding.WORDS]
    assert set(load_checkpoint(found.path).files) == {"tokenizer.json"}
