import pytest
import torch

from vitrail.explanations import outlier_limit, outlier_tokens, token_norms
from vitrail.nn.tokens import Tokens


def normal_tokens(count=400, prefix=5):
    generator = torch.Generator().manual_seed(0)
    return Tokens(torch.randn(2, prefix + count, 16, generator=generator), (20, 20), prefix)


def test_norms_are_lengths_with_the_prefix_first():
    tokens = Tokens(torch.tensor([[[3.0, 4.0], [0.0, 2.0], [6.0, 8.0]]]), (1, 2), prefix=1)
    assert token_norms(tokens).tolist() == [[5.0, 2.0, 10.0]]


def test_long_patches_are_marked_and_no_others_and_prefix_tokens_never():
    tokens = normal_tokens()
    tokens.values[0, 5 + 37] *= 10
    tokens.values[1, 0] *= 100
    marked = outlier_tokens(tokens)
    assert marked.nonzero().tolist() == [[0, 42]]


def test_a_few_outliers_do_not_move_the_limit():
    tokens = normal_tokens()
    before = outlier_limit(tokens)
    tokens.values[:, 10:30] *= 50
    after = outlier_limit(tokens)
    assert ((after / before) < 1.1).all()
    assert outlier_tokens(tokens).sum(1).tolist() == [20, 20]


def test_the_limit_is_the_stated_one():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0])
    tokens = Tokens(values[None, :, None], (1, 5))
    # Median 3, deviations 2 1 0 1 97 with median 1.
    assert float(outlier_limit(tokens, deviations=2.0, factor=1.5)[0]) == pytest.approx(3 + 2 * 1.4826)
    assert float(outlier_limit(tokens, deviations=0.1, factor=1.5)[0]) == pytest.approx(4.5)


def test_where_all_norms_are_alike_none_stands_out():
    tokens = Tokens(torch.ones(1, 9, 4) * (1 + 1e-3 * torch.arange(9))[:, None], (3, 3))
    assert not outlier_tokens(tokens).any()
