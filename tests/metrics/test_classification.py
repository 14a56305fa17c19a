import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from vitrail.contracts import VitrailError
from vitrail.metrics import score_classifier

CLASSES = ("a", "b", "c")


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(60, 3, generator=generator).softmax(1)
    return probabilities, torch.randint(0, 3, (60,), generator=generator)


def test_scores_agree_with_scikit_learn(case):
    probabilities, labels = case
    predicted = probabilities.argmax(1)
    scores = score_classifier(probabilities, labels, CLASSES)
    assert scores.accuracy == pytest.approx((predicted == labels).float().mean().item())
    assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted), abs=1e-6)
    assert scores.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-6)
    assert scores.auroc == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"), abs=1e-6)
    assert scores.top5_accuracy is None


def test_rows_of_the_confusion_are_the_truth():
    probabilities = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.1, 0.2, 0.7]])
    scores = score_classifier(probabilities, torch.tensor([0, 1, 2]), CLASSES)
    assert scores.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert [row.support for row in scores.per_class] == [1, 1, 1]
    assert [row.recall for row in scores.per_class] == [1.0, 0.0, 1.0]
    assert scores.per_class[0].precision == 0.5
    assert scores.loss == pytest.approx(-(math.log(0.9) + math.log(0.1) + math.log(0.7)) / 3)


def test_classes_that_do_not_occur_do_not_lower_the_means():
    probabilities = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    scores = score_classifier(probabilities, torch.tensor([0, 1]), CLASSES)
    assert scores.balanced_accuracy == 1.0
    assert scores.macro_f1 == 1.0
    assert scores.auroc == 1.0


def test_top_five_needs_more_than_five_classes():
    probabilities = torch.eye(8)[[0, 1]] * 0.5 + 0.5 / 8
    probabilities[0, 1:6] = 0.9  # five others are more probable than class 0
    scores = score_classifier(probabilities, torch.tensor([0, 1]), tuple("abcdefgh"))
    assert scores.top5_accuracy == 0.5


def test_labels_without_a_class_and_empty_sets_are_refused():
    with pytest.raises(VitrailError, match="do not fit"):
        score_classifier(torch.ones(1, 3) / 3, torch.tensor([3]), CLASSES)
    with pytest.raises(VitrailError, match="nothing to score"):
        score_classifier(torch.ones(0, 3), torch.zeros(0, dtype=torch.int64), CLASSES)
