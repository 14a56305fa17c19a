import numpy as np
import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.metrics import fit_linear_probe, knn_probabilities, linear


def test_votes_are_weighted_by_the_exponential_of_the_cosine():
    bank = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.6, 0.8]])
    labels = torch.tensor([0, 1, 1])
    found = knn_probabilities(bank, labels, torch.tensor([[3.0, 0.0]]), 3, k=3, temperature=0.5)
    weights = torch.tensor([1.0, 0.0, 0.6]).div(0.5).exp()
    expected = torch.tensor([weights[0], weights[1] + weights[2], 0.0]) / weights.sum()
    torch.testing.assert_close(found[0], expected)


def test_only_the_nearest_vote_and_chunks_do_not_change_the_answer():
    torch.manual_seed(0)
    bank, labels = torch.randn(40, 8), torch.randint(0, 4, (40,))
    queries = torch.randn(13, 8)
    one = knn_probabilities(bank, labels, queries, 4, k=1)
    nearest = (torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(bank).T).argmax(1)
    assert torch.equal(one.argmax(1), labels[nearest])
    whole = knn_probabilities(bank, labels, queries, 4, k=7)
    torch.testing.assert_close(whole, knn_probabilities(bank, labels, queries, 4, k=7, chunk=5))


def test_a_picture_finds_itself():
    torch.manual_seed(0)
    bank, labels = torch.randn(30, 16), torch.arange(30) % 5
    assert torch.equal(knn_probabilities(bank, labels, bank, 5, k=1).argmax(1), labels)


def test_more_neighbours_than_pictures_are_refused():
    with pytest.raises(VitrailError, match="between 1 and the 3 labelled pictures, not 4"):
        knn_probabilities(torch.randn(3, 2), torch.tensor([0, 1, 0]), torch.randn(1, 2), 2, k=4)


def test_the_linear_probe_separates_what_is_linear_and_not_what_is_noise():
    torch.manual_seed(0)
    direction = torch.randn(10)
    features = torch.randn(300, 10) * 5 + 3
    labels = ((features - 3) @ direction > 0).long()
    fitted = fit_linear_probe(features[:200], labels[:200], 2)
    held = fitted.probabilities(features[200:])
    assert (held.argmax(1) == labels[200:]).float().mean() > 0.95
    torch.testing.assert_close(held.sum(1), torch.ones(100))
    noise = fit_linear_probe(features[:200], torch.randint(0, 2, (200,)), 2)
    assert noise.strength <= 0.01  # nothing to learn: the strongest penalties win


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 2], [1, 3]])
def test_the_probe_as_one_layer_gives_the_same_probabilities(classes):
    torch.manual_seed(0)
    features = torch.randn(60, 5) * 3 + 7
    labels = torch.tensor(classes * 30)[:60]
    fitted = fit_linear_probe(features, labels, 4)
    weight, bias = fitted.layer()
    logits = features @ weight.T + bias
    torch.testing.assert_close(logits[:, classes].softmax(1), fitted.probabilities(features)[:, classes])
    assert torch.equal(logits.argmax(1), fitted.probabilities(features).argmax(1))


def test_classes_that_training_never_saw_get_nothing():
    torch.manual_seed(0)
    features = torch.randn(20, 4)
    fitted = fit_linear_probe(features, torch.tensor([0, 2] * 10), 4)
    found = fitted.probabilities(features)
    assert found.shape == (20, 4)
    assert found[:, [1, 3]].abs().max() == 0


def test_a_class_with_one_picture_is_still_fitted_and_one_class_is_refused():
    features = torch.tensor([[0.0], [0.1], [5.0]])
    fitted = fit_linear_probe(features, torch.tensor([0, 0, 1]), 2)
    assert fitted.probabilities(features)[2, 1] > fitted.probabilities(features)[0, 1]
    with pytest.raises(VitrailError, match="two classes"):
        fit_linear_probe(features, torch.zeros(3, dtype=torch.int64), 2)


def test_of_many_pictures_some_choose_the_penalty_and_all_are_learnt_from(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    features = torch.randn(600, 6)
    labels = (features[:, 0] + torch.randn(600) > 0).long()
    whole = fit_linear_probe(features, labels, 2)
    searched: list[int] = []
    search = linear.GridSearchCV.fit

    def seen(self: linear.GridSearchCV, x: np.ndarray, y: np.ndarray) -> linear.GridSearchCV:
        searched.append(len(y))
        return search(self, x, y)

    monkeypatch.setattr(linear, "MOST_SEARCHED", 200)
    monkeypatch.setattr(linear.GridSearchCV, "fit", seen)
    monkeypatch.setattr(linear, "GRID", (whole.strength,))
    some = fit_linear_probe(features, labels, 2)
    assert searched == [200]
    torch.testing.assert_close(some.layer(), whole.layer())


def test_a_class_of_which_the_draw_has_one_picture_does_not_spoil_the_choice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(linear, "MOST_SEARCHED", 60)
    features = torch.randn(243, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.cat([torch.arange(240) % 2, torch.full((3,), 2)])
    features[:240, 0] += 4.0 * labels[:240]
    fitted = fit_linear_probe(features, labels, 3, seed=2**63 - 1)
    assert fitted.strength > min(linear.GRID)
    assert fitted.probabilities(features).isfinite().all()
