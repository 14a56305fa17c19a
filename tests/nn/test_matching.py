import pytest
import torch
from torch import Tensor

from vitrail.nn.matching import Matching, match_patches, merge_patches
from vitrail.nn.tokens import Tokens


def plain_matching(traits: Tensor, count: int) -> list[tuple[int, int]]:
    """For one picture: pairs of an even and an odd place, by loops."""
    unit = [row / row.norm() for row in traits.double()]
    best = []
    for even in range(0, len(unit), 2):
        alike = [(float(unit[even] @ unit[odd]), -odd) for odd in range(1, len(unit), 2)]
        cosine, odd = max(alike)
        best.append((-cosine, even, -odd))
    return [(even, odd) for _, even, odd in sorted(best)[:count]]


@pytest.mark.parametrize(("length", "count"), [(2, 1), (7, 3), (12, 4), (12, 6)])
def test_the_most_alike_pairs_are_found(length: int, count: int) -> None:
    traits = torch.randn(3, length, 5, dtype=torch.float64)
    matching = match_patches(traits, count)
    for picture, sources, targets in zip(traits, *(places.tolist() for places in matching), strict=True):
        assert list(zip(sources, targets, strict=True)) == plain_matching(picture, count)


def test_length_does_not_count_and_of_equals_the_first_are_taken() -> None:
    direction = torch.tensor([1.0, 2.0, -1.0])
    traits = direction * torch.tensor([1.0, 3.0, 0.5, 2.0, 7.0, 1.0])[None, :, None]
    sources, targets = match_patches(traits, 2)
    assert sources.tolist() == [[0, 2]] and targets.tolist() == [[1, 1]]


def example(prefix: int = 2) -> Tokens:
    return Tokens(torch.randn(2, prefix + 6, 4, dtype=torch.float64), (2, 3), prefix)


def test_targets_become_means_and_the_rest_stays() -> None:
    tokens = example()
    first = merge_patches(tokens, Matching(torch.tensor([[0, 4], [2, 0]]), torch.tensor([[1, 1], [3, 1]])))
    patches = tokens.patches
    assert first.values.shape == (2, 6, 4)
    assert torch.equal(first.prefix_values, tokens.prefix_values)
    assert torch.allclose(first.patches[0, 0], patches[0, [0, 1, 4]].mean(dim=0))
    assert torch.equal(first.patches[0, 1:], patches[0, [2, 3, 5]])
    assert first.keep is not None and first.merged is not None
    assert first.keep.tolist() == [[1, 2, 3, 5], [1, 3, 4, 5]]
    assert first.merged.tolist() == [[0, 0, 1, 2, 0, 3], [0, 0, 1, 1, 2, 3]]
    assert first.sizes.tolist() == [[1, 1, 3, 1, 1, 1], [1, 1, 2, 2, 1, 1]]
    # Again: the second picture's first token (patches 0 and 1) goes to its second one (patches 2 and 3), and so on.
    second = merge_patches(first, Matching(torch.tensor([[0], [0]]), torch.tensor([[3], [1]])))
    assert second.merged is not None and second.keep is not None
    assert second.keep.tolist() == [[2, 3, 5], [3, 4, 5]]
    assert second.merged.tolist() == [[2, 2, 0, 1, 2, 2], [0, 0, 0, 0, 1, 2]]
    assert torch.allclose(second.patches[0, 2], patches[0, [0, 1, 4, 5]].mean(dim=0))
    assert torch.allclose(second.patches[1, 0], patches[1, :4].mean(dim=0))
    assert second.sizes.sum(dim=1).tolist() == [8, 8]


def test_every_patch_gets_the_value_of_its_token_back() -> None:
    tokens = example(prefix=1)
    fewer = merge_patches(tokens, match_patches(tokens.patches, 3))
    whole = fewer.unmerged()
    assert whole.keep is None and whole.merged is None and whole.feature_map().shape == (2, 4, 2, 3)
    for picture in range(2):
        for patch in range(6):
            place = int(fewer.places[picture, 1 + patch])
            assert torch.equal(whole.values[picture, 1 + patch], fewer.values[picture, place])
    with pytest.raises(ValueError, match="unmerged"):
        fewer.feature_map()


def test_amounts_are_shared_out_in_equal_parts() -> None:
    tokens = example()
    fewer = merge_patches(tokens, Matching(torch.tensor([[0, 4], [2, 0]]), torch.tensor([[1, 1], [3, 1]])))
    amounts = torch.rand(2, 3, 5, 6, dtype=torch.float64)
    shares = fewer.share_out(amounts)
    assert shares.shape == (2, 3, 5, 8)
    assert torch.allclose(shares.sum(dim=-1), amounts.sum(dim=-1))
    assert torch.allclose(shares[0, ..., 2], amounts[0, ..., 2] / 3) and torch.allclose(
        shares[1, ..., 5], amounts[1, ..., 3] / 2
    )
    assert tokens.share_out(amounts) is amounts and tokens.unmerged() is tokens


def test_equal_tokens_merge_to_themselves_in_half_precision() -> None:
    row = torch.randn(1, 1, 16).bfloat16()
    tokens = Tokens(row.expand(1, 6, -1), (2, 3))
    for _ in range(2):
        tokens = merge_patches(tokens, match_patches(tokens.patches, 2))
    assert torch.equal(tokens.values, row.expand(1, 2, -1))


def test_gradients_reach_every_patch() -> None:
    values = torch.randn(1, 5, 4, dtype=torch.float64, requires_grad=True)
    tokens = Tokens(values, (2, 2), 1)
    weights = torch.randn(1, 3, 4, dtype=torch.float64)

    def fewer(values: Tensor) -> Tensor:
        matching = Matching(torch.tensor([[0, 2]]), torch.tensor([[1, 1]]))
        return merge_patches(tokens.with_values(values), matching).values * weights

    assert torch.autograd.gradcheck(fewer, values)
