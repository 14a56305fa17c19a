"""A smaller depth takes the first blocks of published weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.models import MODELS, PlainConfig, build
from vitrail.weights import create_model, load_pretrained
from vitrail.weights.account import Account
from vitrail.weights.first_blocks import first_blocks
from vitrail.weights.names import Translated

from .builders import artefact, model


def test_the_first_blocks_give_the_tokens_of_that_depth(tmp_path: Path) -> None:
    whole = model(depth=3, registers=2)
    found = load_pretrained(artefact(tmp_path / "m", depth=3, registers=2), depth=2)
    images = torch.randn(2, 3, 32, 32)
    tokens, expected = found.model.features(images), whole.intermediates(images, [1])[0]
    assert torch.equal(tokens.values, expected.values)
    assert found.model.config.depth == 2 and found.model.num_classes == 5


def test_the_head_starts_anew_and_the_account_says_why(tmp_path: Path) -> None:
    found = load_pretrained(artefact(tmp_path / "m", depth=3), depth=1)
    assert set(found.account.missing) == {"head.weight", "head.bias"} and found.classes == ()
    reasons = {name.split(".")[0] + "." + name.split(".")[1]: why for name, why in found.account.dropped.items()}
    assert reasons["blocks.1"] == reasons["blocks.2"] == "behind the first 1 blocks, which were asked for"
    assert reasons["head.weight"] == "made for the last of 3 blocks; 1 were asked for"
    assert not any(name.startswith(("blocks.1", "head")) for name in found.account.translated)


def test_a_pool_that_learned_starts_anew(tmp_path: Path) -> None:
    found = load_pretrained(artefact(tmp_path / "m", pool="attention"), depth=1)
    assert "attn_pool.latent" in found.account.missing and found.model.config.pool == "attention"


@pytest.mark.parametrize("depth", [3, 0, "1"])
def test_a_depth_that_is_not_there_is_refused(depth: object, tmp_path: Path) -> None:
    with pytest.raises(VitrailError, match="depth"):
        load_pretrained(artefact(tmp_path / "m"), depth=depth)


def test_a_name_alone_never_cuts(tmp_path: Path) -> None:
    """A file of more blocks than the named architecture has is the wrong file, unless the depth is asked for."""
    folder = artefact(tmp_path / "m", embed_dim=192, num_heads=3, patch_size=16, img_size=224, depth=14)
    with pytest.raises(VitrailError, match=r"depth 14 \(asked for: 12\)"):
        create_model("vit_tiny_patch16_224", pretrained=folder)
    assert len(create_model("vit_tiny_patch16_224", pretrained=folder, depth=12).blocks) == 12


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224", "vit_small_patch16_dinov3"])
def test_every_plain_family_can_be_cut(name: str) -> None:
    config = MODELS[name]
    assert isinstance(config, PlainConfig)
    with torch.device("meta"):
        state = dict(build(config).state_dict())
        wanted = set(build(first_blocks(Translated(config, state, Account("file", "f")), 5).config).state_dict())
    cut = first_blocks(Translated(config, state, Account("file", "f")), 5)
    assert wanted - set(cut.state) <= {"head.weight", "head.bias"} and set(cut.state) <= wanted
