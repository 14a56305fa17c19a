"""Transformers as the oracle of DETR: every block of encoder and decoder, logits, boxes, gradients, padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitrail.models import Detr
from vitrail.weights import load_checkpoint

pytest.importorskip("transformers")

from .detr_peers import peer
from .peers import TOLERANCE, gradients, pictures

SIZES = [(64, 96), (75, 130)]
"""One of them is divided by no stride."""


def padding(height: int, width: int) -> Tensor:
    """Of two pictures the first fills the frame, the second a part of it."""
    mask = torch.ones(2, height, width, dtype=torch.bool)
    mask[1, height * 2 // 3 :] = False
    mask[1, :, width // 2 :] = False
    return mask


@pytest.fixture(scope="module", params=["own", "timm", "dc5"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    theirs = peer(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    ours = load_checkpoint(folder).model
    assert isinstance(ours, Detr) and ours.config.dilation == (request.param == "dc5")
    return ours, theirs


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("padded", [False, True])
def test_every_block_and_the_answer_equal_transformers(both, size: tuple[int, int], padded: bool) -> None:
    ours, theirs = both
    images = pictures(*size)
    mask = padding(*size) if padded else None
    with torch.no_grad():
        expected = theirs(images, pixel_mask=None if mask is None else mask.long(), output_hidden_states=True)
        answers = ours.every_answer(images, mask)
        memory = ours.encode(images, mask)
        answer = ours(images, mask)
        # The first hidden state is the decoder's input, the last one stands behind its norm.
        hidden = [theirs.model.decoder.layernorm(x) for x in expected.decoder_hidden_states[1:-1]]
        logits = [theirs.class_labels_classifier(x) for x in (*hidden, expected.decoder_hidden_states[-1])]
    assert float(expected.logits.abs().max()) > 0.1
    worst = {
        "logits": (answer.logits - expected.logits).abs().max(),
        "boxes": (answer.boxes - expected.pred_boxes).abs().max(),
        "encoder": (memory.tokens.values - expected.encoder_last_hidden_state).abs().max(),
        **{f"decoder {i}": (a.logits - e).abs().max() for i, (a, e) in enumerate(zip(answers, logits, strict=True))},
    }
    if not padded:
        taps = ours.intermediates(images, [4, 5])
        pairs = zip(taps, expected.encoder_hidden_states[1:], strict=True)
        worst |= {f"encoder {i}": (tap.values - e).abs().max() for i, (tap, e) in enumerate(pairs)}
    differences = {name: value.item() for name, value in worst.items()}
    assert max(differences.values()) <= TOLERANCE, differences
    assert torch.equal(answers[-1].logits, answer.logits) and torch.equal(answers[-1].boxes, answer.boxes)


def test_maps_of_the_backbone_equal_transformers(both) -> None:
    ours, theirs = both
    images = pictures(64, 96)
    with torch.no_grad():
        (expected, _), *_ = reversed(theirs.model.backbone(images, torch.ones(2, 64, 96)))
        found = ours.feature_maps(images, [3])[0]
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=1e-5)


def test_gradients_equal_transformers(both) -> None:
    ours, theirs = both
    images, mask = pictures(64, 96), padding(64, 96)
    names = {
        "query_embed": "model.query_position_embeddings.weight",
        "input_proj.weight": "model.input_projection.weight",
        "encoder.0.attn.k.weight": "model.encoder.layers.0.self_attn.k_proj.weight",
        "decoder.1.cross.q.weight": "model.decoder.layers.1.encoder_attn.q_proj.weight",
        "decoder.0.norm3.bias": "model.decoder.layers.0.final_layer_norm.bias",
        "head.bbox_embed.layers.0.weight": "bbox_predictor.layers.0.weight",
    }
    our_parameters, their_parameters = dict(ours.named_parameters()), dict(theirs.named_parameters())

    def joined(logits: Tensor, boxes: Tensor) -> Tensor:
        return torch.cat([logits, boxes], dim=-1)

    def of_theirs(x: Tensor) -> Tensor:
        out = theirs(x, pixel_mask=mask.long())
        return joined(out.logits, out.pred_boxes)

    found = gradients(lambda x: joined(*ours(x, mask)), images, {n: our_parameters[n] for n in names})[1]
    expected = gradients(of_theirs, images, {n: their_parameters[names[n]] for n in names})[1]
    differences = {name: ((found[name] - e).norm() / e.norm()).item() for name, e in expected.items()}

    assert max(differences.values()) <= TOLERANCE, differences


def test_what_is_found_equals_transformers(both) -> None:
    from transformers import DetrImageProcessorPil

    from vitrail.heads import detections

    ours, theirs = both
    sizes = [(480, 640), (333, 500)]
    with torch.no_grad():
        answer, raw = ours(pictures(64, 96)), theirs(pictures(64, 96))
    expected = DetrImageProcessorPil().post_process_object_detection(raw, threshold=0.2, target_sizes=sizes)
    found = detections(answer.logits, answer.boxes, sizes, threshold=0.2)
    assert sum(len(one.scores) for one in found) > 2
    for one, other in zip(found, expected, strict=True):
        order = other["scores"].argsort(descending=True)
        torch.testing.assert_close(one.scores, other["scores"][order], atol=1e-5, rtol=0)
        assert torch.equal(one.labels, other["labels"][order])
        torch.testing.assert_close(one.boxes, other["boxes"][order], atol=0.02, rtol=0)
