"""SAM's files: every naming read to the last key, written back bit by bit, and faults named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.peers import pictures, save
from tests.models.peers_sam import authors_sam, load_sam, save_pth, timm_encoder, transformers_sam
from vitrail.data import Preprocess
from vitrail.models import MODELS, Sam, SamConfig, SamEncoder
from vitrail.weights import CheckpointError, convert, create_model, load_checkpoint, load_pretrained
from vitrail.weights.catalogue import PRETRAINED, lookup
from vitrail.weights.formats import recognise

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")
pytest.importorskip("segment_anything")

PREPROCESS = Preprocess((64, 64), 1.0, "longest", "bilinear")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    transformers_sam().save_pretrained(folder)
    transformers.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(
        folder
    )
    return folder


def test_transformers_file_and_memory_give_the_same_model(hub: Path, tmp_path: Path) -> None:
    from_files = load_checkpoint(hub)
    model = transformers.SamModel.from_pretrained(hub)
    names = set(model.state_dict()) - set(load_file(hub / "model.safetensors"))
    assert names == {"prompt_encoder.shared_embedding.positional_embedding"}
    (tmp_path / "memory").mkdir()
    save_file({n: t.clone() for n, t in model.state_dict().items()}, tmp_path / "memory" / "model.safetensors")
    (tmp_path / "memory" / "config.json").write_text((hub / "config.json").read_text())
    from_memory = load_checkpoint(tmp_path / "memory")
    assert list(from_memory.account.dropped) == sorted(names)
    assert from_files.model.config == from_memory.model.config
    ours, other = from_files.model.state_dict(), from_memory.model.state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in ours.items())
    assert set(from_files.account.translated.values()) == set(ours)
    assert from_files.preprocess == PREPROCESS


def test_config_json_says_what_shapes_do_not(hub: Path) -> None:
    config = load_sam(hub).config
    assert (config.decoder_heads, config.decoder_eps, config.window, config.global_blocks) == (2, 1e-6, 3, (1,))
    assert (config.num_heads, config.embed_dim, config.depth, config.neck_dim) == (2, 32, 3, 32)
    assert (config.decoder_mlp_dim, config.iou_dim, config.num_masks, config.mask_channels) == (48, 24, 3, 16)


def test_windows_as_large_as_the_grid_are_told_apart_by_config_json(tmp_path: Path) -> None:
    transformers_sam(window=4).save_pretrained(tmp_path)
    config = load_sam(tmp_path).config
    assert config.window == 4 and config.global_blocks == (1,)


def test_transformers_round_trip_is_bit_equal_and_opens_there(hub: Path, tmp_path: Path) -> None:
    account = convert(hub, tmp_path / "again", to="transformers")
    assert not account.missing and not account.changed
    before, after = load_file(hub / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    theirs, again = (transformers.SamModel.from_pretrained(folder).eval() for folder in (hub, tmp_path / "again"))
    points = torch.tensor([[[[20.0, 30.0]]]])
    with torch.no_grad():
        one, other = (model(pictures(64, 64, batch=1), input_points=points) for model in (theirs, again))
    assert torch.equal(one.pred_masks, other.pred_masks)
    processor = transformers.SamImageProcessor.from_pretrained(tmp_path / "again")
    assert processor.size["longest_edge"] == 64 and load_checkpoint(tmp_path / "again").preprocess == PREPROCESS


def test_the_authors_file_becomes_transformers_and_an_artefact(tmp_path: Path) -> None:
    file = save_pth(authors_sam(), tmp_path / "sam_vit_b.pth")
    loaded = load_checkpoint(file)
    assert loaded.account.format == "SAM's authors" and not loaded.account.dropped and not loaded.account.missing
    assert loaded.preprocess == PREPROCESS
    convert(file, tmp_path / "hf", to="transformers")
    convert(file, tmp_path / "ours", to="vitrail")
    ours = loaded.model.state_dict()
    for folder in ("hf", "ours"):
        again = load_checkpoint(tmp_path / folder).model
        assert again.config == loaded.model.config
        assert all(torch.equal(tensor, ours[name]) for name, tensor in again.state_dict().items())
    with torch.no_grad():
        theirs = transformers.SamModel.from_pretrained(tmp_path / "hf").eval()
        expected = theirs.get_image_embeddings(pictures(64, 64))
        torch.testing.assert_close(loaded.model.encode(pictures(64, 64)), expected, atol=1e-4, rtol=1e-4)


def test_the_encoder_alone_goes_to_timm_and_transformers_and_back(tmp_path: Path) -> None:
    theirs = timm_encoder(num_classes=5)
    loaded = load_checkpoint(save(theirs, tmp_path / "samvit.safetensors"))
    assert isinstance(loaded.model, SamEncoder) and loaded.model.num_classes == 5
    convert(tmp_path / "samvit.safetensors", tmp_path / "timm", to="timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    expected = theirs.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())
    assert load_checkpoint(tmp_path / "timm").model.config == loaded.model.config
    with pytest.raises(CheckpointError, match="no classifier"):
        convert(tmp_path / "samvit.safetensors", tmp_path / "hf", to="transformers")
    bare = load_checkpoint(save(timm_encoder(), tmp_path / "bare.safetensors"))
    convert(tmp_path / "bare.safetensors", tmp_path / "hf", to="transformers")
    vision = transformers.SamVisionModel.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        features = bare.model.features(pictures(64, 64)).feature_map()
        torch.testing.assert_close(vision(pictures(64, 64)).last_hidden_state, features, atol=1e-4, rtol=1e-4)
    assert isinstance(load_checkpoint(tmp_path / "hf").model, SamEncoder)


def test_all_of_sam_is_not_written_for_timm(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="Sam is not written for timm"):
        convert(hub, tmp_path / "timm", to="timm")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_decoder.mask_tokens.weight": None}, "mask_decoder.mask_tokens"),
        ({"image_encoder.pos_embed": None}, "incomplete: there is nothing that could be 'image_encoder.pos_embed'"),
        ({"mask_decoder.iou_prediction_head.layers.1.bias": None}, "mask_decoder.iou_head.3.bias"),
        ({"image_encoder.blocks.2.attn.proj.bias": None}, r"blocks.2.attn.mixer.proj.bias"),
        ({"prompt_encoder.what.weight": torch.zeros(3)}, "prompt_encoder.what.weight"),
        ({"image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(9, 16)}, "relative positions of"),
        ({"mask_decoder.iou_token.weight": torch.zeros(2, 32)}, "iou_token has shape"),
    ],
)
def test_files_that_lack_or_add_something_are_refused(
    changes: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    state = {**authors_sam().state_dict(), **changes}
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(tmp_path / "sam.pth")
    assert str(tmp_path / "sam.pth") in str(error.value)


def test_another_activation_is_refused(hub: Path, tmp_path: Path) -> None:
    config = json.loads((hub / "config.json").read_text())
    config["mask_decoder_config"]["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((hub / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="'gelu' is not 'relu'"):
        load_checkpoint(tmp_path)


def test_another_size_resizes_positions_of_both_kinds_as_the_forward_pass_does(hub: Path) -> None:
    loaded = load_sam(hub)
    model = create_model(str(hub), pretrained=True, img_size=(48, 96))
    assert isinstance(model, Sam) and model.config.grid == (3, 6)
    assert model.image_encoder.blocks[1].attn.position_bias.rel_pos_w.shape == (11, 16)
    images = pictures(48, 96)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(images), loaded.encode(images), atol=1e-5, rtol=1e-5)


def test_other_bands_and_weights_of_another_family(hub: Path, tmp_path: Path) -> None:
    grey = create_model(str(hub), pretrained=True, in_channels=1)
    picture = pictures(64, 64)[:, :1]
    with torch.no_grad():
        expected = load_sam(hub).encode(picture.repeat(1, 3, 1, 1))
        torch.testing.assert_close(grey.encode(picture), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(CheckpointError, match="another family"):
        create_model("vit_base_patch16_224", pretrained=hub)


def test_all_of_sam_gives_its_encoder_to_the_encoder_alone(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_sam(hub)
    monkeypatch.setitem(MODELS, "samvit_base_patch16", whole.config.encoder)
    loaded = load_pretrained("samvit_base_patch16", hub, num_classes=4)
    assert isinstance(loaded.model, SamEncoder) and loaded.model.num_classes == 4
    assert set(loaded.account.missing) == {"head.weight", "head.bias"}
    assert "mask_decoder.iou_token.weight" in loaded.account.dropped
    assert set(loaded.account.translated.values()) == set(loaded.model.state_dict()) - set(loaded.account.missing)
    with torch.no_grad():
        features = loaded.model.features(pictures(64, 64)).feature_map()
        assert torch.equal(features, whole.encode(pictures(64, 64)))


def test_formats_are_told_apart_by_their_keys() -> None:
    encoder = set(timm_encoder().state_dict())
    assert recognise(encoder).name == "SAM"
    plain = {name for name in encoder if "rel_pos" not in name and "neck" not in name}
    assert recognise(plain).name == "timm"
    assert recognise(set(authors_sam().state_dict())).name == "SAM"


def test_published_names() -> None:
    for size in ("base", "large", "huge"):
        entry = lookup(f"sam_vit_{size}_patch16")
        assert entry is not None and entry.repo == f"facebook/sam-vit-{size}"
        assert PRETRAINED[entry.repo].model == f"sam_vit_{size}_patch16"
        assert entry.preprocess == Preprocess((1024, 1024), 1.0, "longest", "bilinear")
        encoder = lookup(f"samvit_{size}_patch16")
        assert encoder is not None and encoder.repo == f"timm/samvit_{size}_patch16.sa1b"


def test_published_sizes_follow_from_shapes_alone() -> None:
    """The huge encoder has heads of 80, which its width does not tell but its positions do."""
    from vitrail.models import build
    from vitrail.weights.files import Raw
    from vitrail.weights.sam import AUTHORS, read, write

    for size in ("base", "huge"):
        config = MODELS[f"sam_vit_{size}_patch16"]
        assert isinstance(config, SamConfig)
        with torch.device("meta"):
            state = build(config).state_dict()
        theirs = write(AUTHORS, config, state)
        assert theirs["image_encoder.blocks.0.attn.rel_pos_h"].shape[0] == 27
        assert theirs[f"image_encoder.blocks.{config.depth - 1}.attn.rel_pos_w"].shape[0] == 127
        assert theirs["image_encoder.pos_embed"].shape == (1, 64, 64, config.embed_dim)
        found = read(Raw(Path("sam.pth"), theirs))
        assert found.config == config
        assert {name: t.shape for name, t in found.state.items()} == {name: t.shape for name, t in state.items()}
