"""Every number that the page gets, against the functions that it stands for."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.data import Preprocess, read_picture
from vitrail.explanations import (
    attention_distance,
    attention_entropy,
    grad_cam,
    grad_rollout_maps,
    mean_of_heads,
    patch_colours,
    picture_of,
    position_similarity,
    record,
    relevance_maps,
    rollout,
    rollout_maps,
)

from .conftest import MODELS, Page, error_of, make_model, maps_of, numbers, png, shape_of

ATTENTIVE = [name for name in MODELS if name != "convnext"]


def seen_by(model, size: int, step: int, data: bytes | None = None):
    picture = read_picture(png() if data is None else data)
    preprocess = Preprocess(size=(size, size)).whole(picture, (step, step))
    return preprocess(picture)[None]


def recorded(model, images, layer, query):
    with record(model, layers=(layer,), queries=(query,)) as attention, torch.no_grad():
        model(images)
    return attention[layer]


def test_state_tells_what_the_page_must_know(page: Page):
    state = page.client.get("/api/state").json()
    models = {model["id"]: model for model in state["models"]}
    assert list(models) == list(MODELS)
    assert models["dinov2"] == {
        "id": "dinov2",
        "name": "a dinov2",
        "layers": 3,
        "heads": [2, 2, 2],
        "prefix_names": ["class", "register 1", "register 2", "register 3", "register 4"],
        "patch": [8, 8],
        "img_size": [32, 32],
        "classes": None,
        "gradients": False,
        "uniform": True,
    }
    assert models["vit"]["classes"] == ["cat", "dog", "owl", "fox", "hen"]
    assert models["vit"]["gradients"]
    assert models["swin"]["heads"] == [2, 2, 4, 4]
    assert not models["swin"]["uniform"]
    assert models["sam"]["uniform"]
    assert models["sam"]["prefix_names"] == []
    assert models["convnext"]["layers"] == 0
    assert models["convnext"]["patch"] == [32, 32]
    assert {32, 224, 518} <= set(state["sizes"])
    assert state["session"] == page.client.get("/api/health").json()["session"]


def test_an_encoding_describes_the_whole_picture_at_its_own_aspect(page: Page):
    found = page.encode("dinov2")
    assert found["seconds"] > 0
    expected = {"grid": [6, 11], "width": 88, "height": 48, "layers": 3, "heads": [2, 2, 2], "prefix": 5, "dim": 32}
    assert {name: found[name] for name in expected} == expected
    assert found["grids"] == [[6, 11]] * 3
    windowed = page.encode("swin")
    assert windowed["grids"] == [[24, 44], [24, 44], [12, 22], [12, 22]]
    assert windowed["grid"] == [12, 22]
    tall = page.encode("dinov2", data=png(90, 50))
    assert (tall["height"], tall["width"], tall["grid"]) == (88, 48, [11, 6])


@pytest.mark.parametrize("name", ATTENTIVE)
def test_rows_equal_recorded_attention(page: Page, name):
    found = page.encode(name)
    model = make_model(name)
    images = seen_by(model, 48, 4 if name == "swin" else 8)
    for layer, query in ((0, 7), (-1, 13), (1, 0)):
        expected = recorded(model, images, layer, query)
        maps = expected.maps()[0, :, 0].double().numpy()
        shares = expected.weights[0, :, 0, : expected.prefix].double().sum(-1).numpy()
        every = page.get(found, f"row?layer={layer}&query={query}&heads=all")
        assert shape_of(every) == maps.shape == (len(maps), *found["grids"][layer])
        tops = numbers(every, "x-top")
        np.testing.assert_allclose(tops, maps.max(axis=(1, 2)), rtol=1e-4)
        assert np.abs(maps_of(every) - maps).max(axis=(1, 2)) == pytest.approx(
            np.zeros(len(maps)), abs=tops.max() / 255
        )
        np.testing.assert_allclose(numbers(every, "x-prefix"), shares, atol=1e-5)
        for heads, fused, share in (
            ("mean", maps.mean(0), shares.mean()),
            ("max", maps.max(0), shares.max()),
            ("1", maps[1], shares[1]),
        ):
            one = page.get(found, f"row?layer={layer}&query={query}&heads={heads}")
            assert shape_of(one) == fused.shape
            assert np.abs(maps_of(one) - fused).max() <= fused.max() / 255
            assert maps_of(one).max() == pytest.approx(fused.max(), rel=1e-4)
            assert numbers(one, "x-prefix")[0] == pytest.approx(share, abs=1e-5)
            assert maps_of(one).argmax() == fused.argmax()


def test_thumbs_are_the_rows_of_all_layers_and_heads(page: Page):
    found = page.encode("vit")
    thumbs = page.get(found, "thumbs?query=9")
    assert shape_of(thumbs) == (3, 2, 6, 11)
    for layer in range(3):
        row = page.get(found, f"row?layer={layer}&query=9&heads=all")
        np.testing.assert_array_equal(maps_of(thumbs)[layer], maps_of(row))
        np.testing.assert_array_equal(numbers(thumbs, "x-prefix").reshape(3, 2)[layer], numbers(row, "x-prefix"))
    assert "different grids" in error_of(page.get(page.encode("swin"), "thumbs?query=1"), 404)


@pytest.mark.parametrize("name", list(MODELS))
def test_features_have_length_one_and_are_the_models(page: Page, name):
    found = page.encode(name)
    answer = page.get(found, "features?layer=-1")
    height, width, dim = shape_of(answer)
    assert [height, width] == found["grid"]
    assert dim == found["dim"]
    values = np.frombuffer(answer.content, "<f2").reshape(height, width, dim).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(values, axis=-1), 1.0, atol=2e-3)
    model = make_model(name)
    images = seen_by(model, 48, {"swin": 4, "convnext": 32}.get(name, 8))
    with torch.no_grad():
        patches = model.features(images).patches[0].double().numpy()
    expected = (patches / np.linalg.norm(patches, axis=-1, keepdims=True)).reshape(values.shape)
    np.testing.assert_allclose(values, expected, atol=1e-3)


def test_features_of_other_depths_go_through_the_final_norm(page: Page):
    found = page.encode("vit")
    model = make_model("vit")
    with torch.no_grad():
        tokens = model.intermediates(seen_by(model, 48, 8), (1,))[0]
    answer = page.get(found, "features?layer=1")
    values = np.frombuffer(answer.content, "<f2").reshape(66, 32)
    expected = torch.nn.functional.normalize(tokens.patches[0], dim=-1).numpy()
    np.testing.assert_allclose(values, expected, atol=1e-3)
    assert "depth 3" in error_of(page.get(found, "features?layer=3"), 404)


def test_the_image_is_what_the_model_saw(page: Page):
    found = page.encode("vit")
    answer = page.get(found, "image")
    assert answer.headers["content-type"] == "image/png"
    preprocess = Preprocess()
    expected = picture_of(seen_by(None, 48, 8)[0], preprocess.mean, preprocess.std)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), np.asarray(expected))


def test_rollout_of_the_class_token_and_of_any_other(page: Page):
    found = page.encode("vit")
    model = make_model("vit")
    with record(model, queries=None, fuse=mean_of_heads) as attention, torch.no_grad():
        model(seen_by(model, 48, 8))
    expected = rollout_maps(attention)[0].numpy()
    answer = page.get(found, "map?kind=rollout")
    assert np.abs(maps_of(answer) - expected).max() <= expected.max() / 255
    row = rollout(attention)[0, 8]
    answer = page.get(found, "map?kind=rollout&query=8")
    assert np.abs(maps_of(answer).ravel() - row[1:].numpy()).max() <= float(row[1:].max()) / 255
    assert numbers(answer, "x-prefix")[0] == pytest.approx(float(row[0]), abs=1e-5)
    assert "one grid" in error_of(page.get(page.encode("swin"), "map?kind=rollout"), 404)


def test_rollout_without_a_class_token_is_the_mean_of_the_patches(page: Page):
    found = page.encode("registers")
    model = make_model("registers")
    with record(model, queries=None, fuse=mean_of_heads) as attention, torch.no_grad():
        model(seen_by(model, 48, 8))
    rows = rollout(attention)[0, 4:].mean(dim=0)
    answer = page.get(found, "map?kind=rollout")
    assert np.abs(maps_of(answer).ravel() - rows[4:].numpy()).max() <= float(rows[4:].max()) / 255
    assert numbers(answer, "x-prefix")[0] == pytest.approx(float(rows[:4].sum()), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "maps"), [("relevance", relevance_maps), ("grad_rollout", grad_rollout_maps), ("grad_cam", grad_cam)]
)
def test_maps_of_a_class(page: Page, kind, maps):
    found = page.encode("vit")
    model, images = make_model("vit"), seen_by(None, 48, 8)
    answers = {}
    for label in (None, 0, 3):
        classes = None if label is None else torch.tensor([label])
        expected = maps(model, images, classes)[0].detach().numpy()
        answers[label] = page.get(found, f"map?kind={kind}" + ("" if label is None else f"&class={label}"))
        assert shape_of(answers[label]) == (6, 11)
        assert np.abs(maps_of(answers[label]) - expected).max() <= expected.max() / 250
    assert answers[0].content != answers[3].content
    assert "there is no class 5" in error_of(page.get(found, f"map?kind={kind}&class=5"), 404)
    assert "no classifier" in error_of(page.get(page.encode("dinov2"), f"map?kind={kind}"), 400)


def test_convolutions_have_maps_of_a_class_too(page: Page):
    found = page.encode("convnext", 64)
    expected = grad_cam(make_model("convnext"), seen_by(None, 64, 32), torch.tensor([1]))[0].detach().numpy()
    answer = page.get(found, "map?kind=grad_cam&class=1")
    assert list(shape_of(answer)) == found["grid"]
    assert np.abs(maps_of(answer) - expected).max() <= expected.max() / 250
    error_of(page.get(found, "map?kind=relevance"), 400)


def test_colours_are_shared_with_another_picture_of_another_shape(page: Page):
    found, other = page.encode("vit"), page.encode("vit", data=png(70, 40, seed=3))
    model = make_model("vit")
    with torch.no_grad():
        tokens = model.features(seen_by(model, 48, 8))
    alone = np.frombuffer(page.get(found, "pca").content, np.uint8).reshape(6, 11, 3)
    expected = (patch_colours(tokens)[0] * 255).round().numpy()
    assert np.abs(alone - expected).max() <= 1
    together = page.get(found, f"pca?with={other['id']}")
    back = page.get(other, f"pca?with={found['id']}")
    assert shape_of(together) == (6, 11, 3)
    assert shape_of(back) == (*other["grid"], 3)
    assert together.content != alone.tobytes()
    values = np.concatenate([np.frombuffer(a.content, np.uint8).reshape(-1, 3) for a in (together, back)])
    # Shared scale: 1 % and 99 % of all patches together are the ends, which no picture by itself must reach.
    assert (values.min(axis=0) == 0).all()
    assert (values.max(axis=0) == 255).all()
    error_of(page.get(found, "pca?with=gone"), 410)


def test_the_strip_is_the_classifier_after_every_block(page: Page):
    found = page.encode("vit")
    layers = page.get(found, "strip").json()["layers"]
    model = make_model("vit")
    with torch.no_grad():
        images = seen_by(model, 48, 8)
        taps = [model.classify(tokens)[0].softmax(-1) for tokens in model.intermediates(images, range(3))]
        final = model(images)[0].softmax(-1)
    names = ("cat", "dog", "owl", "fox", "hen")
    assert len(layers) == 3
    for layer, shares in zip(layers, taps, strict=True):
        assert [entry["name"] for entry in layer] == [names[i] for i in shares.topk(3).indices]
        assert [entry["p"] for entry in layer] == pytest.approx(shares.topk(3).values.tolist(), abs=1e-5)
    assert layers[-1][0]["p"] == pytest.approx(float(final.max()), abs=1e-5)
    for name, reason in (("dinov2", "no classifier"), ("swin", "last stage")):
        answer = page.get(page.encode(name), "strip").json()
        assert answer["layers"] is None
        assert reason in answer["reason"]


def test_reach_and_norms(page: Page):
    found = page.encode("dinov2")
    model = make_model("dinov2")
    images = seen_by(model, 48, 8)
    with record(model, queries=None) as attention, torch.no_grad():
        raw = model.intermediates(images, (-1,), norm=False)[0]
    answer = page.get(found, "reach").json()
    for layer in range(3):
        distance = attention_distance(attention[layer], (48, 88))[0].tolist()
        assert answer["distance"][layer] == pytest.approx(distance, rel=1e-4)
        assert answer["entropy"][layer] == pytest.approx(attention_entropy(attention[layer])[0].tolist(), rel=1e-4)
    assert answer["whole"] == pytest.approx((48**2 + 88**2) ** 0.5)
    norms = page.get(found, "norms").json()
    assert norms["norms"] == pytest.approx(raw.values[0].norm(dim=-1).tolist(), rel=1e-4)
    assert len(norms["norms"]) == 5 + 66
    assert all(place >= 5 for place in norms["outliers"])


def test_positions_of_a_table_and_of_none(page: Page):
    found = page.encode("dinov2")
    expected = position_similarity(make_model("dinov2"), (6, 11))[0, 7].numpy()
    answer = page.get(found, "positions?query=12")
    values = np.frombuffer(answer.content, np.uint8).reshape(6, 11) / 127.5 - 1
    assert np.abs(values - expected).max() <= 0.005
    assert "no patch" in error_of(page.get(found, "positions?query=2"), 404)
    assert "no table" in error_of(page.get(page.encode("swin"), "positions?query=2"), 404)


def test_the_export_is_what_record_writes(page: Page, tmp_path):
    found = page.encode("vit")
    answer = page.get(found, "export.npz?layer=-1&query=4")
    assert "layer2-token4" in answer.headers["content-disposition"]
    model = make_model("vit")
    with record(model, layers=(-1,), queries=(4,)) as attention, torch.no_grad():
        model(seen_by(model, 48, 8))
    expected = np.load(attention.to_npz(tmp_path / "row.npz"))
    got = np.load(io.BytesIO(answer.content))
    assert sorted(got.files) == sorted(expected.files)
    for name in got.files:
        assert got[name].dtype == expected[name].dtype
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-6)
