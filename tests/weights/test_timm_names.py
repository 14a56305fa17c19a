"""What only the name of a timm architecture tells: activation, heads, blocks; what is refused, guessed and said."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.models.peers import perturb, pictures, save
from vitrail.models import ImageTowerConfig, MAEConfig, ViTConfig, build
from vitrail.weights import CheckpointError, convert, create_model, load_checkpoint, load_pretrained
from vitrail.weights.files import Raw
from vitrail.weights.formats import recognise
from vitrail.weights.infer import HEADS_BY_WIDTH
from vitrail.weights.timm_names import OTHERS, activation_of, heads_of_name, require_readable

from .builders import model, state

timm = pytest.importorskip("timm")
from timm.models._hub import save_for_hf  # noqa: E402  (timm may be missing)

SMALL: dict[str, Any] = {"embed_dim": 96, "depth": 2, "num_heads": 3}
FEW_WIDE: dict[str, Any] = {"embed_dim": 128, "depth": 2, "num_heads": 8}


def folder(name: str, path: Path, arguments: dict[str, Any], untold: tuple[str, ...] = ()) -> nn.Module:
    """A model of timm and its folder as timm writes it; ``untold`` arguments are taken out of its ``config.json``."""
    made = perturb(timm.create_model(name, num_classes=5, **arguments))
    save_for_hf(made, str(path), model_args=arguments, safe_serialization=True)
    config = json.loads((path / "config.json").read_text())
    config["model_args"] = {key: value for key, value in config["model_args"].items() if key not in untold}
    (path / "config.json").write_text(json.dumps(config))
    return made


def difference(ours: nn.Module, theirs: nn.Module, *size: int) -> float:
    """Largest one between the logits, over their largest."""
    images = pictures(*size)
    with torch.no_grad():
        found, expected = ours(images), theirs(images)
    assert found.shape == expected.shape and float(expected.abs().max()) > 0.05
    return float((found - expected).abs().max() / expected.abs().max())


def sizes(theirs: nn.Module) -> tuple[int, int]:
    return theirs.patch_embed.img_size


# ---------------------------------------------------------------------- the tables against timm's constructors


def constructed(module: str, pattern: str = "*") -> dict[str, nn.Module]:
    """Every architecture of one of timm's modules at its own width, one block deep and without memory."""
    found = {}
    for name in timm.list_models(pattern, module=module, exclude_filters="*sapiens*"):
        with torch.device("meta"):
            found[name] = timm.create_model(name, depth=1)
    return found


def is_read_by_timms_names(theirs: nn.Module) -> bool:
    try:
        return recognise(theirs.state_dict()).name.startswith("timm")
    except CheckpointError:
        return False


def named(name: str, theirs: nn.Module) -> Raw:
    """What a hub file of that architecture holds: tensors and a name."""
    return Raw(Path(name), theirs.state_dict(), config={"architecture": name})


def test_the_tables_are_those_of_timms_constructors() -> None:
    seen = 0
    for name, theirs in constructed("vision_transformer").items():
        block = theirs.blocks[0]
        if not is_read_by_timms_names(theirs) or any(fnmatchcase(name, pattern) for pattern in OTHERS):
            continue
        raw, width = named(name, theirs), theirs.embed_dim
        require_readable(raw)
        assert type(block).__name__ == "Block" and not theirs.pool_include_prefix, name
        heads = heads_of_name(raw) or HEADS_BY_WIDTH.get(width, width // 64)
        refused_anyway = width % 64 and width not in HEADS_BY_WIDTH and heads_of_name(raw) is None
        # AIMv2 has other heads too, but its tensors have other names.
        assert heads == block.attn.num_heads or refused_anyway or name.startswith("aimv2"), name
        kind = type(block.mlp.act).__name__
        if kind != "SiLU":
            assert activation_of(raw) == {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}[kind], (
                name
            )
        seen += 1
    assert seen > 100


def test_every_rotary_architecture_with_our_names_is_refused() -> None:
    refused = 0
    for name, theirs in constructed("eva", "vit_*").items():
        if theirs.rope is None or "dinov3" in name or not is_read_by_timms_names(theirs):
            continue
        if any("q_bias" in key or "fc1_g" in key or "attn.norm" in key for key in theirs.state_dict()):
            continue  # Names that no model of ours has: an error in any case.
        with pytest.raises(CheckpointError, match=rf"{name} has tensors of the same names.*rotary"):
            require_readable(named(name, theirs))
        refused += 1
    assert refused >= 8


# ---------------------------------------------------------------------- blocks that are not ours


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_base_patch16_rpn_224", "residual post-norm"),
        ("vit_base_patch16_rope_ape_224", "rotary"),
        ("vit_pe_core_base_patch16_224", "rotary"),
        ("test_vit3", "reads the register"),
    ],
)
def test_an_architecture_with_our_names_and_another_block_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    folder(name, tmp_path, FEW_WIDE)
    with pytest.raises(CheckpointError, match=f"{name} has tensors of the same names.*{reason}"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("pool", ["avgmax", "max"])
def test_a_pool_that_is_not_ours_is_refused(pool: str, tmp_path: Path) -> None:
    folder("vit_tiny_patch16_224", tmp_path, {"depth": 1, "img_size": 32, "global_pool": pool})
    with pytest.raises(CheckpointError, match=f"its pool is '{pool}'"):
        load_checkpoint(tmp_path)


def test_a_bare_file_that_may_be_post_norm_says_so(tmp_path: Path) -> None:
    theirs = perturb(timm.create_model("vit_base_patch16_rpn_224", **FEW_WIDE))
    file = save(theirs, tmp_path / "bare.safetensors")
    assert any("vit_*_rpn_*" in note for note in load_checkpoint(file).account.notes)
    # A plain Vision Transformer may have just these tensors: who knows that it is one says so.
    sure = load_pretrained(file, block="pre_norm").account
    assert not any("rpn" in note for note in sure.notes)


def test_a_bare_file_that_cannot_be_post_norm_says_nothing_of_it(tmp_path: Path) -> None:
    for options in ({"class_token": True}, {"layer_scale": 1e-5}, {"qkv_bias": True}):
        plain = {"class_token": False, "pool": "mean", "pool_norm": True, "qkv_bias": False}
        made = model(**{**plain, **options})
        file = save(made, tmp_path / f"{next(iter(options))}.safetensors")
        assert not any("rpn" in note for note in load_checkpoint(file).account.notes)


def test_a_bare_tower_that_may_be_rotary_says_so(tmp_path: Path) -> None:
    theirs = perturb(timm.create_model("vit_pe_core_base_patch16_224", **FEW_WIDE))
    notes = load_checkpoint(save(theirs, tmp_path / "bare.safetensors")).account.notes
    assert any("vit_pe_*" in note for note in notes)


# ---------------------------------------------------------------------- the tanh form of the GELU


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch32_siglip_256",
        "vit_large_patch16_siglip_512",
        "vit_so400m_patch16_siglip_256",
        "vit_giantopt_patch16_siglip_256",
        "vit_base_patch32_siglip_gap_256",
        "vit_large_patch16_siglip_gap_512",
        "vit_giantopt_patch16_siglip_gap_256",
    ],
)
def test_towers_with_the_tanh_gelu_equal_timm(name: str, tmp_path: Path) -> None:
    theirs = folder(name, tmp_path, SMALL)
    loaded = load_checkpoint(tmp_path)
    config = loaded.model.config
    assert isinstance(config, ImageTowerConfig) and config.activation == "gelu_tanh" and config.norm_eps == 1e-6
    assert config.pool == ("mean" if "_gap_" in name else "attention")
    assert difference(loaded.model, theirs, *sizes(theirs)) < 2e-6
    # The oracle can tell: with the exact GELU it is another answer.
    assert difference(load_pretrained(tmp_path, activation="gelu").model, theirs, *sizes(theirs)) > 5e-6


@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_224", "vit_base_patch16_siglip_gap_256"])
def test_towers_with_the_exact_gelu_equal_timm(name: str, tmp_path: Path) -> None:
    theirs = folder(name, tmp_path, SMALL)
    ours = load_checkpoint(tmp_path).model
    assert isinstance(ours.config, ViTConfig)
    assert difference(ours, theirs, *sizes(theirs)) < 2e-6


def test_an_activation_in_the_arguments_counts_more_than_the_name(tmp_path: Path) -> None:
    small = {**SMALL, "img_size": 64}
    theirs = folder("vit_tiny_patch16_224", tmp_path / "tanh", {**small, "act_layer": "gelu_tanh"})
    ours = load_checkpoint(tmp_path / "tanh").model
    assert isinstance(ours.config, ImageTowerConfig) and ours.config.pool == "class"
    assert difference(ours, theirs, 64, 64) < 2e-6
    theirs = folder("vit_large_patch16_siglip_512", tmp_path / "exact", {**small, "act_layer": "gelu"})
    assert difference(load_checkpoint(tmp_path / "exact").model, theirs, 64, 64) < 2e-6


def test_the_mean_of_a_tower_with_a_class_token_is_read_off_config_json(tmp_path: Path) -> None:
    pooled = {**SMALL, "img_size": 64, "global_pool": "avg", "fc_norm": False, "act_layer": "gelu_tanh"}
    theirs = folder("vit_tiny_patch16_224", tmp_path, pooled)
    assert difference(load_checkpoint(tmp_path).model, theirs, 64, 64) < 2e-6


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"act_layer": "gelu_tanh", "init_values": 1e-5}, "no layer scales"),
        ({"act_layer": "gelu_tanh", "reg_tokens": 2}, "no registers"),
        ({"act_layer": "gelu_tanh", "qk_norm": True}, "no norms of queries and keys"),
        ({"act_layer": "gelu_tanh", "qkv_bias": False}, "no queries, keys and values without bias"),
        ({"act_layer": "relu"}, "'relu' is not known"),
    ],
)
def test_an_activation_that_cannot_be_had_is_refused(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    folder("vit_tiny_patch16_224", tmp_path, {**SMALL, "img_size": 64, **options})
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(tmp_path)


def test_a_bare_siglip_says_which_gelu_was_assumed_and_a_name_settles_it(tmp_path: Path) -> None:
    theirs = perturb(timm.create_model("vit_base_patch16_siglip_224", depth=2))
    file = save(theirs, tmp_path / "bare.safetensors")
    assert any("assumed is the exact GELU" in note for note in load_checkpoint(file).account.notes)
    named_ = load_pretrained("vit_base_patch16_siglip_224", file, depth=2)
    assert not any("exact GELU" in note for note in named_.account.notes)
    assert any("tanh form" in note for note in named_.account.notes)


def test_a_written_tower_comes_back_with_its_activation(tmp_path: Path) -> None:
    folder("vit_large_patch16_siglip_512", tmp_path / "a", {**SMALL, "img_size": 64})
    convert(tmp_path / "a", tmp_path / "b", to="timm")
    opened = timm.create_model(f"local-dir:{tmp_path / 'b'}", pretrained=True).eval()
    again = load_checkpoint(tmp_path / "b").model
    assert again.config == load_checkpoint(tmp_path / "a").model.config
    assert difference(again, opened, 64, 64) < 2e-6


# ---------------------------------------------------------------------- heads: known and guessed


def test_heads_that_the_architecture_has_are_known(tmp_path: Path) -> None:
    theirs = folder("test_vit", tmp_path, {})
    loaded = load_checkpoint(tmp_path)
    assert not any("num_heads" in note for note in loaded.account.notes)
    assert difference(loaded.model, theirs, 160, 160) < 2e-6


@pytest.mark.parametrize(("name", "heads"), [("vit_base_patch16_gap_224", 16), ("vit_giantopt_patch16_siglip_256", 16)])
def test_heads_that_the_width_does_not_tell_are_those_of_the_name(name: str, heads: int, tmp_path: Path) -> None:
    theirs = folder(name, tmp_path, {"depth": 1, "img_size": 32, "mlp_ratio": 1.0})
    loaded = load_checkpoint(tmp_path)
    assert loaded.model.config.num_heads == heads and not any("num_heads" in n for n in loaded.account.notes)
    assert difference(loaded.model, theirs, *sizes(theirs)) < 2e-6


def test_heads_of_an_architecture_at_another_width(tmp_path: Path) -> None:
    """timm keeps the heads of the architecture where only the width is an argument."""
    theirs = folder("vit_small_patch16_224", tmp_path / "told", {"embed_dim": 192, "depth": 2, "img_size": 32})
    ours = load_checkpoint(tmp_path / "told").model
    assert ours.config.num_heads == 6 and difference(ours, theirs, 32, 32) < 2e-6
    # Here the name does not describe the file, so that it says nothing of its heads.
    numbers = {"depth": 2, "img_size": 32, "embed_dim": 192, "num_heads": 3}
    folder("vit_small_patch16_224", tmp_path / "untold", numbers, untold=("embed_dim", "num_heads"))
    loaded = load_checkpoint(tmp_path / "untold")
    assert loaded.model.config.num_heads == 3
    assert "num_heads is not in the file: 3 assumed (width / 64)" in loaded.account.notes


def own(path: Path) -> tuple[nn.Module, Path]:
    """Somebody's own model: of a published width, with twice the heads."""
    made = timm.create_model("vit_small_patch16_224", num_heads=12, depth=2, num_classes=5, img_size=32)
    perturb(made)
    return made, save(made, path / "own.safetensors")


def test_a_guess_is_said_and_gives_way_to_the_caller(tmp_path: Path) -> None:
    theirs, file = own(tmp_path)
    guessed = load_checkpoint(file)
    note = "num_heads is not in the file: 6 assumed (width / 64)"
    assert note in guessed.account.notes and f"note: {note}" in str(guessed.account)
    assert difference(guessed.model, theirs, 32, 32) > 1e-3
    right = load_pretrained(file, num_heads=12)
    assert right.model.config.num_heads == 12 and note not in right.account.notes
    assert difference(right.model, theirs, 32, 32) < 2e-6
    by_name = create_model("vit_small_patch16_224", pretrained=file, num_heads=12, depth=2, img_size=32)
    assert difference(by_name, theirs, 32, 32) < 2e-6
    assert note not in load_pretrained("vit_small_patch16_224", file, depth=2, img_size=32).account.notes
    with pytest.raises(Exception, match="embed_dim 384 is not divisible by num_heads 5"):
        load_pretrained(file, num_heads=5)


def test_a_known_number_of_heads_does_not_give_way(tmp_path: Path) -> None:
    folder("vit_small_patch16_224", tmp_path, {"depth": 2, "img_size": 32})
    with pytest.raises(CheckpointError, match=r"num_heads 6 \(asked for: 12\)"):
        load_pretrained(tmp_path, num_heads=12)


def test_a_guess_is_kept_in_its_part_and_left_with_the_other(tmp_path: Path) -> None:
    config = MAEConfig(
        img_size=32, patch_size=8, embed_dim=128, depth=1, num_heads=4, decoder_embed_dim=64, decoder_num_heads=4
    )
    made = build(config).eval()
    tensors = state(made)
    theirs = {}
    for name, tensor in tensors.items():
        if name.startswith("decoder.blocks.") or name in ("decoder_pos_embed",):
            theirs[name.replace("decoder.blocks.", "decoder_blocks.")] = tensor
        elif name == "decoder.mask_token":
            theirs["mask_token"] = tensor
        else:
            theirs[name.removeprefix("encoder.").replace("decoder.", "decoder_")] = tensor
    file = tmp_path / "mae.pth"
    torch.save({"model": theirs}, file)
    notes = load_checkpoint(file).account.notes
    assert "num_heads is not in the file: 2 assumed (width / 64)" in notes
    assert "decoder_num_heads is not in the file: 1 assumed (width / 64)" in notes
    whole = load_pretrained(file, num_heads=4, decoder_num_heads=4)
    assert whole.model.config.num_heads == 4 and whole.model.config.decoder_num_heads == 4
    assert not any("num_heads" in note for note in whole.account.notes)
    encoder = load_pretrained("vit_tiny_patch8_224", file, img_size=32, embed_dim=128, depth=1, num_heads=4)
    assert encoder.model.config.num_heads == 4 and not any("num_heads" in note for note in encoder.account.notes)


def test_rotary_periods_follow_the_heads_of_the_caller(tmp_path: Path) -> None:
    options = {"patch_size": 8, "img_size": 32, "num_classes": 5}
    theirs = perturb(timm.create_model("vit_small_patch16_dinov3", **FEW_WIDE, **options))
    file = save(theirs, tmp_path / "own.safetensors")
    assert "num_heads is not in the file: 2 assumed (width / 64)" in load_checkpoint(file).account.notes
    assert difference(load_pretrained(file, num_heads=8).model, theirs, 32, 32) < 2e-6


# ---------------------------------------------------------------------- sizes and positions


def test_a_size_that_patches_do_not_divide_is_cut_with_and_without_a_name(tmp_path: Path) -> None:
    name = "vit_so400m_patch14_siglip_384"
    theirs = folder(name, tmp_path, SMALL)
    ours = load_checkpoint(tmp_path).model
    assert ours.config.fit == "cut" and ours.img_size == (384, 384)
    assert difference(ours, theirs, 384, 384) < 2e-6
    asked = load_pretrained(name, tmp_path, **SMALL)
    assert isinstance(asked.model.config, ImageTowerConfig) and asked.model.config.fit == "cut"
    assert asked.model.config.activation == "gelu_tanh"
    exact = load_pretrained(name, tmp_path, **SMALL, activation="gelu").model
    assert difference(exact, theirs, 384, 384) < 2e-6


REGISTERS = {
    "mean": ("vit_so150m_patch16_reg4_gap_256", {}),
    "attention": ("vit_so150m_patch16_reg4_map_256", {}),
    "second": ("vit_so150m2_patch16_reg1_gap_256", {}),
    "class_token": ("vit_tiny_patch16_224", {"reg_tokens": 4, "img_size": 64}),
    # 32 patches and 4 registers are 36 rows, which is a square.
    "not_square": ("vit_tiny_patch16_224", {"reg_tokens": 3, "img_size": [64, 128]}),
}


@pytest.mark.parametrize("case", REGISTERS)
def test_positions_of_registers_go_into_the_registers(case: str, tmp_path: Path) -> None:
    name, options = REGISTERS[case]
    theirs = folder(name, tmp_path / "a", {**SMALL, **options})
    loaded = load_checkpoint(tmp_path / "a")
    assert {"reg_token", "pos_embed"} <= loaded.account.changed.keys()
    assert difference(loaded.model, theirs, *sizes(theirs)) < 2e-6
    convert(tmp_path / "a", tmp_path / "b", to="timm")
    opened = timm.create_model(f"local-dir:{tmp_path / 'b'}", pretrained=True).eval()
    assert difference(opened, theirs, *sizes(theirs)) < 2e-6


def test_positions_of_registers_are_found_without_config_json(tmp_path: Path) -> None:
    theirs = perturb(
        timm.create_model("vit_so150m_patch16_reg4_gap_256", num_classes=5, **{**FEW_WIDE, "num_heads": 2})
    )
    ours = load_checkpoint(save(theirs, tmp_path / "bare.safetensors")).model
    assert difference(ours, theirs, 256, 256) < 2e-6


def test_registers_without_positions_are_left_alone(tmp_path: Path) -> None:
    theirs = folder("vit_base_patch16_reg4_gap_256", tmp_path, SMALL)
    loaded = load_checkpoint(tmp_path)
    assert not loaded.account.changed
    tensors = load_file(tmp_path / "model.safetensors")
    assert torch.equal(loaded.model.state_dict()["reg_token"], tensors["reg_token"])
    assert difference(loaded.model, theirs, 256, 256) < 2e-6


def test_the_tag_of_an_architecture_is_no_part_of_its_name(tmp_path: Path) -> None:
    theirs = folder("vit_large_patch16_siglip_512", tmp_path, SMALL)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architecture"] += ".v2_webli"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert difference(load_checkpoint(tmp_path).model, theirs, 512, 512) < 2e-6
