import pytest
import torch

from vitrail.contracts import VitrailError
from vitrail.explanations.pca import fit_basis, foreground_of, patch_colours, patch_components, shared_basis
from vitrail.nn.tokens import Tokens


def skewed_features(count=200, width=12):
    """Three skewed sources of falling strength behind a random rotation."""
    generator = torch.Generator().manual_seed(5)
    sources = torch.empty(count, 3).exponential_(generator=generator) - 1
    noise = torch.randn(count, width, generator=generator) * 0.01
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q[:3]
    return (sources * torch.tensor([9.0, 3.0, 1.0])) @ basis + noise, sources


def test_components_find_the_sources():
    features, sources = skewed_features()
    scores = patch_components(features)
    for i in range(3):
        correlation = torch.corrcoef(torch.stack([scores[:, i], sources[:, i]]))[0, 1]
        assert correlation.abs() > 0.97


def test_components_are_those_of_a_singular_value_decomposition():
    features, _ = skewed_features()
    basis = fit_basis(features)
    centred = features.double() - features.double().mean(0)
    expected = torch.linalg.svd(centred, full_matrices=False).Vh[:3]
    expected = expected * expected.pow(3).sum(1, keepdim=True).sign()
    torch.testing.assert_close(basis.directions, expected)
    torch.testing.assert_close(basis.scores(features).double(), centred @ expected.T, atol=1e-4, rtol=1e-4)


def test_signs_survive_another_order_and_noise():
    features, _ = skewed_features()
    scores = patch_components(features)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(patch_components(features[order]), scores[order], atol=1e-4, rtol=1e-4)
    noisy = patch_components(features + 0.01 * torch.randn(features.shape, generator=torch.Generator().manual_seed(2)))
    assert (noisy - scores).abs().max() < 0.2


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_what_two_pictures_share_has_one_sign_however_much_of_them_it_fills(share):
    """An object that fills a fifth of one picture and most of another keeps its side of the component."""
    generator = torch.Generator().manual_seed(4)
    direction = torch.randn(12, generator=generator)
    inside = torch.arange(200) < 200 * share
    features = inside[:, None] * direction + 0.01 * torch.randn(200, 12, generator=generator)
    scores = patch_components(features, 1)[:, 0]
    up = bool(direction.pow(3).sum() > 0)
    assert bool(scores[inside].mean() > scores[~inside].mean()) == up


def test_a_basis_fitted_on_several_pictures_gives_like_patches_like_colours_in_each():
    features, _ = skewed_features(200)
    one, other = Tokens(features[None, :60], grid=(6, 10)), Tokens(features[None, 60:], grid=(10, 14))
    basis = shared_basis([one, other])
    whole = patch_colours(Tokens(features[None], grid=(10, 20)))[0].flatten(0, 1)
    torch.testing.assert_close(patch_colours(one, basis=basis)[0].flatten(0, 1), whole[:60], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(patch_colours(other, basis=basis)[0].flatten(0, 1), whole[60:], atol=1e-4, rtol=1e-4)
    again = patch_colours(Tokens(features[None, :60].flip(1), grid=(6, 10)), basis=basis)[0].flatten(0, 1)
    torch.testing.assert_close(again.flip(0), whole[:60], atol=1e-4, rtol=1e-4)
    with pytest.raises(VitrailError, match="one width"):
        shared_basis([one, Tokens(torch.randn(1, 4, 5), grid=(2, 2))])


def test_one_outlier_does_not_turn_the_others_grey():
    features, _ = skewed_features()
    features[7] *= 1000
    tokens = Tokens(features[None], grid=(10, 20))
    colours = patch_colours(tokens)
    assert colours.shape == (1, 10, 20, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert colours.flatten(0, 2).std(dim=0).min() > 0.1


def test_pictures_of_a_batch_share_their_colours_and_prefix_tokens_are_left_out():
    features, _ = skewed_features(100)
    pair = torch.stack([features, features])
    prefix = torch.full((2, 5, 12), 1e4)
    colours = patch_colours(Tokens(torch.cat([prefix, pair], dim=1), grid=(5, 20), prefix=5))
    torch.testing.assert_close(colours[0], colours[1])
    torch.testing.assert_close(colours[0], patch_colours(Tokens(features[None], grid=(5, 20)))[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("object_rows", [4, 8])
def test_foreground_is_what_the_rim_has_less_of_whether_small_or_large(object_rows):
    grid = (10, 12)
    inside = torch.zeros(grid, dtype=torch.bool)
    inside[1 : 1 + object_rows, 1:-1] = True
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(120, 6, generator=generator) * 0.1
    features[inside.flatten()] += 4.0
    mask = foreground_of(Tokens(features[None], grid=grid))
    assert torch.equal(mask[0].unflatten(0, grid), inside)
    colours = patch_colours(Tokens(features[None], grid=grid), mask)
    assert (colours[0][~inside] == 0).all()
    assert (colours[0][inside] > 0).any()


def test_too_few_patches_or_holes_are_refused():
    with pytest.raises(VitrailError, match="3 components"):
        patch_components(torch.randn(2, 8))
    with pytest.raises(VitrailError, match="every patch"):
        patch_colours(Tokens(torch.randn(1, 2, 8), grid=(2, 2), keep=torch.tensor([[0, 3]])))
