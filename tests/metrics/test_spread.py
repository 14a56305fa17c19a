"""Spread of features: known answers."""

import pytest
import torch

from vitrail.metrics import effective_rank, feature_deviation


def test_rank_of_equal_singular_values_is_their_number():
    assert effective_rank(torch.eye(8)) == pytest.approx(8, rel=1e-4)
    assert effective_rank(torch.eye(8)[:, :3]) == pytest.approx(3, rel=1e-4)
    # Shares 3/4 and 1/4: exp of their entropy.
    expected = 1 / (0.75**0.75 * 0.25**0.25)
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(expected, rel=1e-4)


def test_collapsed_features_have_rank_one_and_no_deviation():
    features = torch.randn(1, 16).expand(50, 16)
    assert effective_rank(features) == pytest.approx(1, abs=1e-3)
    assert feature_deviation(features) == pytest.approx(0, abs=1e-6)


def test_features_that_point_everywhere_have_deviation_one():
    features = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
    assert feature_deviation(features) == pytest.approx(1, abs=0.02)
    assert feature_deviation(5 * features) == pytest.approx(feature_deviation(features))


def test_features_of_nothing_are_a_number():
    assert effective_rank(torch.zeros(4, 3)) == pytest.approx(1, abs=0.01)
