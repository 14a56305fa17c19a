import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.explanations import mutual_matches, patch_similarity, top_patches
from vitrail.nn.tokens import Tokens


def some_tokens(grid=(3, 4), prefix=1, batch=2, width=8, seed=0):
    count = prefix + grid[0] * grid[1]
    return Tokens(torch.randn(batch, count, width, generator=torch.Generator().manual_seed(seed)), grid, prefix)


def explicit(one, other):
    one, other = one.double(), other.double()
    return float((one @ other) / (one @ one).sqrt() / (other @ other).sqrt())


def test_similarity_is_the_cosine_of_the_named_patch_with_every_patch():
    tokens = some_tokens()
    found = patch_similarity(tokens, (2, 1))
    assert found.shape == (2, 3, 4)
    for picture in range(2):
        for row in range(3):
            for column in range(4):
                expected = explicit(tokens.values[picture, 1 + 2 * 4 + 1], tokens.values[picture, 1 + row * 4 + column])
                assert float(found[picture, row, column]) == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(patch_similarity(tokens, 10), found)
    assert float(patch_similarity(tokens, 0)[0, 0, 0]) == pytest.approx(
        explicit(tokens.values[0, 0], tokens.values[0, 1]), abs=1e-5
    )


def test_similarity_with_another_picture_lies_on_the_other_grid():
    one, other = some_tokens(batch=1), some_tokens((5, 2), prefix=0, batch=1, seed=1)
    found = patch_similarity(one, (0, 3), other)
    assert found.shape == (1, 5, 2)
    assert float(found[0, 4, 1]) == pytest.approx(explicit(one.values[0, 4], other.values[0, 9]), abs=1e-5)


def test_scale_does_not_matter_and_a_patch_is_most_like_itself():
    tokens = some_tokens(batch=1)
    scaled = tokens.with_values(tokens.values * torch.linspace(0.1, 9, 13)[:, None])
    torch.testing.assert_close(patch_similarity(scaled, (1, 2)), patch_similarity(tokens, (1, 2)))
    assert top_patches(patch_similarity(scaled, (1, 2))[0], 1)[0].patch == (1, 2)


def test_top_patches_come_in_order_and_equal_ones_in_reading_order():
    values = torch.tensor([[0.1, 0.9, 0.5], [0.9, -1.0, 0.2]])
    assert [match.patch for match in top_patches(values, 3)] == [(0, 1), (1, 0), (0, 2)]
    assert len(top_patches(values, 99)) == 6


def test_a_shifted_picture_is_matched_patch_by_patch():
    one = some_tokens((4, 5), prefix=1, batch=1, width=16)
    moved = one.feature_map().roll((1, 2), dims=(2, 3)).flatten(2).transpose(1, 2) * 3
    other = Tokens(moved, (4, 5))
    pairs = mutual_matches(one, other)
    assert len(pairs) == 20
    assert all(pair.other == ((pair.one[0] + 1) % 4, (pair.one[1] + 2) % 5) for pair in pairs)
    assert all(pair.cosine == pytest.approx(1, abs=1e-5) for pair in pairs)


def test_matches_are_mutual_and_sorted():
    one, other = some_tokens(batch=1), some_tokens((5, 3), batch=1, seed=4)
    cosine = torch.stack([patch_similarity(one, (r, c), other)[0].flatten() for r in range(3) for c in range(4)])
    expected = {
        (divmod(i, 4), divmod(int(cosine[i].argmax()), 3))
        for i in range(12)
        if int(cosine[:, cosine[i].argmax()].argmax()) == i
    }
    pairs = mutual_matches(one, other)
    assert {(pair.one, pair.other) for pair in pairs} == expected
    assert [pair.cosine for pair in pairs] == sorted((pair.cosine for pair in pairs), reverse=True)
    assert mutual_matches(one, other, 2) == pairs[:2]


def test_what_cannot_be_compared_is_refused():
    tokens = some_tokens()
    with pytest.raises(VitrailError, match="no patch"):
        patch_similarity(tokens, (3, 0))
    with pytest.raises(VitrailError, match="8 channels cannot be compared with 2 with 6"):
        patch_similarity(tokens, (0, 0), some_tokens(width=6))
    with pytest.raises(VitrailError, match="at a time"):
        mutual_matches(tokens, tokens)
    with pytest.raises(VitrailError, match="every patch"):
        patch_similarity(tokens._replace(keep=torch.zeros(2, 12, dtype=torch.long)), 0)
