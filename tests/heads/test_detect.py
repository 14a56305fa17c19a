"""From logits and boxes to objects, by hand."""

from __future__ import annotations

import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.heads import DetectionHead, detections


def logits_of(*shares: tuple[float, ...]) -> torch.Tensor:
    """Queries of one picture whose softmax is known."""
    return torch.tensor([shares]).log()


def test_boxes_come_back_in_pixels_of_the_original_surest_first() -> None:
    logits = logits_of((0.3, 0.5, 0.2), (0.8, 0.1, 0.1), (0.05, 0.05, 0.9))
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]]])
    (found,) = detections(logits, boxes, [(100, 200)], threshold=0.5)
    torch.testing.assert_close(found.scores, torch.tensor([0.8, 0.5]))
    assert found.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 0.0, 100.0, 100.0], [80.0, 30.0, 120.0, 70.0]]))


def test_no_object_is_never_the_answer_but_takes_its_share() -> None:
    (found,) = detections(logits_of((0.2, 0.1, 0.7)), torch.full((1, 1, 4), 0.5), [(10, 10)], threshold=0.0)
    assert found.labels.tolist() == [0] and found.scores.tolist() == pytest.approx([0.2])
    (nothing,) = detections(logits_of((0.2, 0.1, 0.7)), torch.full((1, 1, 4), 0.5), [(10, 10)], threshold=0.7)
    assert nothing.boxes.shape == (0, 4)


def test_every_picture_has_its_own_size() -> None:
    logits, boxes = logits_of((0.9, 0.05, 0.05)).repeat(2, 1, 1), torch.tensor([[0.5, 0.5, 1.0, 1.0]]).repeat(2, 1, 1)
    one, other = detections(logits, boxes, torch.tensor([[10, 20], [30, 7]]))
    assert one.boxes.tolist() == [[0.0, 0.0, 20.0, 10.0]] and other.boxes.tolist() == [[0.0, 0.0, 7.0, 30.0]]


def test_sizes_and_thresholds_that_cannot_be_are_refused() -> None:
    logits, boxes = logits_of((0.9, 0.05, 0.05)), torch.full((1, 1, 4), 0.5)
    with pytest.raises(VitrailError, match="1 pictures were looked at, but 2 sizes"):
        detections(logits, boxes, [(1, 1), (2, 2)])
    with pytest.raises(VitrailError, match=r"0 … 1, not 1\.5"):
        detections(logits, boxes, [(1, 1)], threshold=1.5)


def test_the_head_answers_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    head, queries = DetectionHead(16, 4), torch.randn(2, 3, 16)
    logits, boxes = head(queries)
    assert logits.shape == (2, 3, 5) and boxes.shape == (2, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        again = head(queries)
    assert torch.equal(again[0], logits) and torch.equal(again[1], boxes)
    assert [layer.out_features for layer in head.bbox_embed.layers] == [16, 16, 4]
