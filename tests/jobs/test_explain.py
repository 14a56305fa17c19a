"""``vitrail explain`` over families: what is drawn, what is refused, and the page."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.tiny import TINY
from vitrail.contracts import VitrailError
from vitrail.data.preprocess import Preprocess
from vitrail.explanations import AttentionRecord, attention_maps, patch_similarity
from vitrail.jobs.explain import ExplainConfig, explain
from vitrail.jobs.explain_kinds import KINDS, Subject
from vitrail.jobs.explain_page import MEANINGS
from vitrail.models import build, config_of
from vitrail.nn.embed import as_pair
from vitrail.weights import Artefact, load_artefact

HERE = {"device": "cpu", "precision": "fp32", "workers": 0}


def stored(name: str, folder: Path, classes: bool = True, **overrides: object) -> str:
    """A tiny model of a family as an artefact, with classes where it has a classifier."""
    torch.manual_seed(0)
    model = build(config_of(name, {**TINY[name], **overrides}))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    names = tuple(f"kind {number}" for number in range(model.num_classes)) if classes else ()
    Artefact(model, names, Preprocess(size=as_pair(model.config.img_size))).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name, size in (("a", (50, 90, 3)), ("b <b>", (64, 40, 3))):
        Image.fromarray(random.integers(0, 255, size, dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def names_of(files: tuple[Path, ...], suffix: str = ".png") -> set[str]:
    return {path.stem for path in files if path.suffix == suffix}


def test_every_kind_has_a_meaning():
    assert set(KINDS) <= set(MEANINGS)


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("vit_tiny_patch16_224", set()),
        ("swin_tiny_patch4_window7_224", {"rollout", "grad-rollout", "relevance", "positions"}),
        ("samvit_base_patch16", {"rollout", "grad-rollout", "relevance", "grad-cam"}),
        ("resnet18", {"attention", "heads", "layers", "rollout", "grad-rollout", "relevance", "reach", "positions"}),
    ],
)
def test_every_kind_that_a_family_allows_is_drawn_and_the_others_are_explained(
    name: str, without: set[str], pictures: Path, tmp_path: Path
):
    model = stored(name, tmp_path / "model", classes=not name.startswith("samvit"))
    (explained,) = explain(ExplainConfig(source=str(pictures / "a.png"), model=model, out=tmp_path / "out", **HERE))
    drawn = names_of(explained.files)
    assert drawn <= set(KINDS)
    assert set(KINDS) - drawn <= without, set(KINDS) - drawn
    page = (tmp_path / "out" / "explain.html").read_text()
    for kind in set(KINDS) - drawn:
        assert f"<li>{kind}: " in page
    with np.load(tmp_path / "out" / "a" / "maps.npz", allow_pickle=False) as arrays:
        assert all(np.isfinite(arrays[key]).all() for key in arrays.files)


def test_only_what_was_asked_for_is_drawn_and_a_kind_that_does_not_apply_is_an_error(pictures: Path, tmp_path: Path):
    model = stored("vit_tiny_patch16_224", tmp_path / "model", num_classes=0)
    config = {"source": str(pictures / "a.png"), "model": model, "out": tmp_path / "out", **HERE}
    (explained,) = explain(ExplainConfig(**config, kinds=("pca", "reach")))
    assert names_of(explained.files) == {"pca", "reach"}
    with pytest.raises(VitrailError, match="no classifier"):
        explain(ExplainConfig(**config, kinds=("relevance",)))
    for wrong in ({"layer": 9}, {"patch": (40, 0)}):
        with pytest.raises(VitrailError, match="there is no"):
            explain(ExplainConfig(**config, **wrong))


def test_a_class_is_named_or_numbered_and_changes_the_evidence(pictures: Path, tmp_path: Path):
    model = stored("vit_tiny_patch16_224", tmp_path / "model")
    found = {}
    for name in ("kind 0", "0", "kind 1"):
        out = tmp_path / name
        config = ExplainConfig(
            source=str(pictures / "a.png"), model=model, out=out, kinds=("grad-cam",), class_name=name, **HERE
        )
        explain(config)
        found[name] = np.load(out / "a" / "maps.npz")["grad_cam"]
    assert np.array_equal(found["kind 0"], found["0"])
    assert not np.allclose(found["kind 0"], found["kind 1"])
    with pytest.raises(VitrailError, match="no class 'cat'; there are kind 0, kind 1"):
        explain(ExplainConfig(source=str(pictures / "a.png"), model=model, out=tmp_path, class_name="cat", **HERE))


def test_a_second_picture_is_compared_with_at_its_own_shape(pictures: Path, tmp_path: Path):
    model = stored("vit_tiny_patch16_224", tmp_path / "model", num_classes=0)
    config = ExplainConfig(
        source=str(pictures / "a.png"),
        model=model,
        out=tmp_path / "out",
        other=pictures / "b <b>.png",
        kinds=("similarity", "pca"),
        patch=(0, 1),
        whole=True,
        **HERE,
    )
    (explained,) = explain(config)
    assert names_of(explained.files) == {"similarity", "pca", "matches"}
    values = np.load(tmp_path / "out" / "a" / "maps.npz")["similarity"]
    backbone = load_artefact(tmp_path / "model").model.eval()
    height, width = values.shape
    assert height > width
    assert np.abs(values).max() <= 1
    assert patch_similarity(backbone.features(torch.zeros(1, 3, *backbone.img_size)), 0).ndim == 3


def test_the_attention_record_holds_the_row_that_is_drawn(pictures: Path, tmp_path: Path):
    model = stored("vit_tiny_patch16_224", tmp_path / "model", num_classes=0)
    config = ExplainConfig(
        source=str(pictures / "a.png"), model=model, out=tmp_path / "out", kinds=("attention",), patch=(1, 0), **HERE
    )
    explain(config)
    attention = AttentionRecord.from_npz(tmp_path / "out" / "a" / "attention.npz")
    values = np.load(tmp_path / "out" / "a" / "maps.npz")["attention"]
    row = attention[-1].row((1, 0))
    assert np.allclose(attention.maps(-1)[0, :, row].mean(0).numpy(), values, atol=1e-6)


def test_registers_are_not_drawn_as_the_class_token(pictures: Path, tmp_path: Path):
    changes = {"class_token": False, "registers": 4, "pool": "mean"}
    model = stored("vit_tiny_patch16_224", tmp_path / "model", **changes)
    config = ExplainConfig(
        source=str(pictures / "a.png"), model=model, out=tmp_path / "out", kinds=("attention", "rollout"), **HERE
    )
    explain(config)
    assert "class token" not in (tmp_path / "out" / "explain.html").read_text()
    # A mean over rows is the row of no token: there is no record of it.
    assert not (tmp_path / "out" / "a" / "attention.npz").exists()
    backbone = load_artefact(tmp_path / "model").model.eval()
    images = torch.randn(1, *backbone.example_inputs(1)[0].shape[1:])
    subject = Subject(backbone, images, (Image.new("RGB", (8, 8)),))
    assert subject.whose == "mean over all patches"
    expected = attention_maps(backbone, images)[0]
    torch.testing.assert_close(subject.view(-1).mean(dim=0), expected)


def test_a_detector_shows_its_queries_and_a_segmenter_its_masks(pictures: Path, tmp_path: Path):
    for name, kind in (("detr_resnet50", "queries"), ("sam_vit_base_patch16", "prompt")):
        model = stored(name, tmp_path / name, classes=False)
        config = {"source": str(pictures / "a.png"), "model": model, "out": tmp_path / "out" / name, **HERE}
        (explained,) = explain(ExplainConfig(**config))
        assert names_of(explained.files) == {kind}
        maps = np.load(tmp_path / "out" / name / "a" / "maps.npz")[kind]
        assert maps.ndim == 3 and np.isfinite(maps).all()
        assert np.allclose(maps.sum(axis=(1, 2)), 1, atol=1e-4)
        with pytest.raises(VitrailError, match="leave kinds out"):
            explain(ExplainConfig(**config, kinds=("rollout",)))
    for points, message in (
        ("3;4", "points: 2 numbers with commas between them are wanted, not '3;4'"),
        ("1,2,3,4", "points: 2 numbers"),
        ("nan,2", "points: 2 numbers"),
        ("91,2", r"a\.png: points lie outside its 90x50 pixels"),
    ):
        with pytest.raises(VitrailError, match=message):
            explain(ExplainConfig(**config, points=(points,)))
    with pytest.raises(VitrailError, match="is a Detr, but only promptable segmenters take --points"):
        explain(ExplainConfig(**{**config, "model": str(tmp_path / "detr_resnet50")}, points=("3,4",)))


def test_the_frames_of_a_folder_are_one_clip(pictures: Path, tmp_path: Path):
    model = stored("videomae_base_patch16_224", tmp_path / "model", classes=False)
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(6):
        shade = np.full((40, 40, 3), 40 * number, dtype=np.uint8)
        Image.fromarray(shade).save(frames / f"{number:02}.png")
    (explained,) = explain(ExplainConfig(source=str(frames), model=model, out=tmp_path / "out", **HERE))
    drawn = names_of(explained.files)
    assert {"attention", "heads", "layers", "rollout", "pca", "reach", "norms"} <= drawn
    with np.load(tmp_path / "out" / "00" / "maps.npz") as arrays:
        assert arrays["attention"].ndim == 3
        assert arrays["rollout"].shape == arrays["attention"].shape
    with pytest.raises(VitrailError, match="a folder of them"):
        explain(ExplainConfig(source=str(frames / "00.png"), model=model, out=tmp_path / "one", **HERE))


def test_the_page_is_one_file_that_loads_nothing_and_escapes_names(pictures: Path, tmp_path: Path):
    model = stored("vit_tiny_patch16_224", tmp_path / "model")
    explain(
        ExplainConfig(source=str(pictures), model=model, out=tmp_path / "out", kinds=("attention", "reach"), **HERE)
    )
    page = (tmp_path / "out" / "explain.html").read_text()
    assert "b &lt;b&gt;.png" in page and "<b>.png" not in page
    assert re.search(r'(?:src|href)="(?!data:|#)', page) is None
    assert "<script" not in page and "default-src 'none'" in page
    assert page.count("<figure>") == 4 and page.count('<svg class="plot"') == 2
    assert page.count("Predicted: kind") == 2
    assert "var(--accent)" in page and len(page) < 2_000_000
