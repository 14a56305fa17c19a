"""DiT's checkpoints: the authors' layout and diffusers' own files, read to the same weights; what does not fit."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.models import DiffusionTransformer, DiTConfig
from vitrail.weights import CheckpointError, convert, create_model, load_artefact, load_checkpoint, load_pretrained
from vitrail.weights.dit import AUTHORS, DIFFUSERS
from vitrail.weights.formats import recognise
from vitrail.weights.names import expand, rename

SMALL = {"img_size": 8, "embed_dim": 384, "depth": 2, "num_heads": 6, "num_classes": 5}


def model(**options: object) -> DiffusionTransformer:
    """A small DiT with every learned weight away from its initial value."""
    torch.manual_seed(0)
    made = DiffusionTransformer(DiTConfig(**{**SMALL, **options}))  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def authors(made: DiffusionTransformer) -> dict[str, Tensor]:
    """Its weights by the authors' names."""
    return {name: v.detach().clone() for name, v in rename(made.state_dict(), expand(AUTHORS, 2)).items()}


def diffusers(made: DiffusionTransformer) -> dict[str, Tensor]:
    """Its weights by diffusers' names: positions left out, the embeddings in every block."""
    state = rename(made.state_dict(), expand(DIFFUSERS, 2))
    del state["pos_embed.pos_embed"]
    copies = {name.replace("blocks.0", "blocks.1"): v.clone() for name, v in state.items() if ".norm1.emb." in name}
    return {name: v.detach().clone() for name, v in {**state, **copies}.items()}


def assert_reads(file: Path, expected: DiffusionTransformer) -> DiffusionTransformer:
    loaded = load_checkpoint(file)
    made = loaded.model
    assert isinstance(made, DiffusionTransformer) and not made.training
    assert made.config == expected.config
    wanted = expected.state_dict()
    assert made.state_dict().keys() == wanted.keys()
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    assert loaded.preprocess.size == made.img_size and loaded.preprocess.bands == made.in_channels
    assert (loaded.preprocess.mean, loaded.preprocess.std) == ((0.0,) * 4, (1.0,) * 4)
    return made


def test_the_builders_have_the_names_of_the_files() -> None:
    names = set(authors(model()))
    assert {
        *("pos_embed", "x_embedder.proj.bias", "t_embedder.mlp.2.weight", "y_embedder.embedding_table.weight"),
        *("blocks.1.attn.qkv.bias", "blocks.0.mlp.fc2.weight", "blocks.1.adaLN_modulation.1.bias"),
        *("final_layer.linear.weight", "final_layer.adaLN_modulation.1.weight"),
    } <= names
    assert len(names) == 10 * 2 + 12


@pytest.mark.parametrize("options", [{}, {"patch_size": 4, "img_size": 16}, {"learn_sigma": False}, {"mlp_ratio": 2.0}])
def test_the_authors_files(options: dict, tmp_path: Path) -> None:
    expected = model(**options)
    torch.save(authors(expected), tmp_path / "DiT.pt")
    assert_reads(tmp_path / "DiT.pt", expected)


def test_a_training_checkpoint_gives_the_moving_average(tmp_path: Path) -> None:
    expected, learning = model(), model()
    learning.final.linear.bias.data.add_(1.0)
    content = {
        "model": {f"module.{name}": tensor for name, tensor in authors(learning).items()},
        "ema": authors(expected),
        "opt": {"state": {}, "param_groups": []},
        "args": argparse.Namespace(model="DiT-S/2"),
    }
    torch.save(content, tmp_path / "0400000.pt")
    assert_reads(tmp_path / "0400000.pt", expected)
    assert "'ema'" in str(load_checkpoint(tmp_path / "0400000.pt").account)


@pytest.mark.parametrize("stored", [False, True])
def test_diffusers_names(stored: bool, tmp_path: Path) -> None:
    expected = model(img_size=12)
    tensors = diffusers(expected)
    if stored:
        tensors["pos_embed.pos_embed"] = expected.pos_embed.detach().clone()
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"sample_size": 12, "num_attention_heads": 6}))
    assert_reads(tmp_path, expected)
    account = load_checkpoint(tmp_path).account
    assert set(account.dropped.values()) == {"a copy of the first block's"} and len(account.dropped) == 5
    assert set(account.missing) == (set() if stored else {"pos_embed"})
    accounted = {part for names in account.translated for part in names.split("+")} | set(account.dropped)
    assert accounted == set(tensors)


def test_diffusers_own_folder(tmp_path: Path) -> None:
    transformer_2d = pytest.importorskip("diffusers.models.transformers.dit_transformer_2d")
    theirs = transformer_2d.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=16, out_channels=8, num_embeds_ada_norm=5
    )
    for block in theirs.transformer_blocks:
        block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    theirs.save_pretrained(tmp_path / "transformer")
    assert set(load_file(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")) == set(theirs.state_dict())
    ours = load_checkpoint(tmp_path / "transformer").model
    assert isinstance(ours, DiffusionTransformer)
    assert (ours.img_size, ours.config.num_heads, ours.num_classes) == ((16, 16), 2, 5)


def test_without_config_the_usual_size_is_assumed_and_said(tmp_path: Path) -> None:
    save_file(diffusers(model()), tmp_path / "dit.safetensors")
    loaded = load_checkpoint(tmp_path / "dit.safetensors")
    assert loaded.model.img_size == (32, 32)
    assert "computed for latents of 32x32" in str(loaded.account)


def test_blocks_with_embeddings_of_their_own_are_another_model(tmp_path: Path) -> None:
    tensors = diffusers(model())
    tensors["transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"] += 1.0
    save_file(tensors, tmp_path / "dit.safetensors")
    with pytest.raises(CheckpointError, match=r"linear_1\.bias differs from the first block's"):
        load_checkpoint(tmp_path / "dit.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        *("pos_embed", "x_embedder.proj.weight", "t_embedder.mlp.0.weight", "t_embedder.mlp.2.bias"),
        *("blocks.0.mlp.fc1.weight", "blocks.1.attn.qkv.bias", "final_layer.linear.weight"),
    ],
)
def test_a_missing_tensor_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    tensors = authors(model())
    del tensors[name]
    torch.save(tensors, tmp_path / "DiT.pt")
    ours = next(row.ours for row in expand(AUTHORS, 2) if row.theirs == (name,))
    with pytest.raises(CheckpointError, match=ours.replace(".", r"\.")):
        load_checkpoint(tmp_path / "DiT.pt")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"blocks.0.norm1.weight": torch.ones(384)}, r"no Vision Transformer.*blocks\.0\.norm1\.weight"),
        ({"final_layer.linear.weight": torch.ones(24, 384)}, "gives 24 values, which is neither noise"),
        ({"pos_embed": torch.ones(1, 15, 384)}, "15 rows, which is no square grid"),
        ({"blocks.1.mlp.fc2.bias": torch.ones(7)}, r"blocks\.1\.mlp\.fc2\.bias has shape \(7,\)"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Tensor], reason: str, tmp_path: Path) -> None:
    torch.save({**authors(model()), **change}, tmp_path / "DiT.pt")
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(tmp_path / "DiT.pt")


def test_heads_that_shapes_do_not_tell_are_asked_for(tmp_path: Path) -> None:
    expected = model(embed_dim=32, num_heads=2)
    torch.save(authors(expected), tmp_path / "DiT.pt")
    with pytest.raises(CheckpointError, match=r"config\.json with num_heads"):
        load_checkpoint(tmp_path / "DiT.pt")
    (tmp_path / "config.json").write_text('{"num_heads": 2}')
    assert_reads(tmp_path / "DiT.pt", expected)


def test_heads_that_were_a_guess_are_said_and_give_way(tmp_path: Path) -> None:
    expected = model(num_heads=12)
    torch.save(authors(expected), tmp_path / "DiT.pt")
    note = "num_heads is not in the file: 6 assumed (width / 64)"
    assert note in load_checkpoint(tmp_path / "DiT.pt").account.notes
    right = load_pretrained(tmp_path / "DiT.pt", num_heads=12)
    assert right.model.config == expected.config and note not in right.account.notes


def test_no_other_format_takes_these_names_and_dit_takes_no_others() -> None:
    assert recognise(authors(model())).name == "DiT by its authors"
    assert recognise(diffusers(model())).name == "DiT in diffusers"
    plain = {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "pos_embed"}
    assert recognise(plain).name == "timm"


# ---------------------------------------------------------------------- another size, other classes


def test_another_size_gets_its_own_positions(tmp_path: Path) -> None:
    expected = model()
    torch.save(authors(expected), tmp_path / "DiT.pt")
    found = load_pretrained(tmp_path / "DiT.pt", img_size=(12, 8))
    made = found.model
    assert isinstance(made, DiffusionTransformer) and made.config.grid == (6, 4)
    shown = torch.randn(1, 4, 12, 8), torch.tensor([3]), torch.tensor([2])
    assert torch.equal(made(*shown), expected(*shown))
    assert "grid 4×4 computed for 6×4" in found.account.changed["pos_embed"]
    assert found.preprocess.size == (12, 8)


def test_other_classes_get_a_fresh_table(tmp_path: Path) -> None:
    torch.save(authors(model()), tmp_path / "DiT.pt")
    found = load_pretrained(tmp_path / "DiT.pt", num_classes=3)
    assert found.model.num_classes == 3
    assert set(found.account.missing) == {"label_embed.table.weight"}
    assert "y_embedder.embedding_table.weight" in found.account.dropped


def test_a_named_architecture_takes_the_file(tmp_path: Path) -> None:
    made = model(depth=12)
    state = {name: v.detach().clone() for name, v in rename(made.state_dict(), expand(AUTHORS, 12)).items()}
    torch.save(state, tmp_path / "DiT.pt")
    found = create_model("dit_small_patch2_256", pretrained=tmp_path / "DiT.pt")
    assert found.img_size == (32, 32) and found.num_classes == 5
    shown = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.tensor([2])
    with torch.no_grad():
        assert torch.equal(found(*shown), made(*shown))
    with pytest.raises(VitrailError, match=r"patch_size 2 \(asked for: 4\)"):
        create_model("dit_small_patch4_256", pretrained=tmp_path / "DiT.pt")


# ---------------------------------------------------------------------- conversion


def test_to_vitrail_and_back_is_bit_equal(tmp_path: Path) -> None:
    expected = model()
    torch.save(authors(expected), tmp_path / "DiT.pt")
    account = convert(tmp_path / "DiT.pt", tmp_path / "artefact", to="vitrail")
    assert len(account.translated) == len(authors(expected)) and not account.dropped
    again = load_artefact(tmp_path / "artefact").model
    assert isinstance(again, DiffusionTransformer)
    assert all(torch.equal(v, authors(expected)[name]) for name, v in authors(again).items())


@pytest.mark.parametrize("to", ["timm", "transformers"])
def test_libraries_without_the_family_are_said_to_have_none(to: str, tmp_path: Path) -> None:
    torch.save(authors(model()), tmp_path / "DiT.pt")
    with pytest.raises(VitrailError, match=f"not written for {to}, which has no such model"):
        convert(tmp_path / "DiT.pt", tmp_path / "out", to=to)  # pyright: ignore[reportArgumentType]
