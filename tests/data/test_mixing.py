"""Mixup and CutMix: each picture's share of the pixels is its share of the label."""

import dataclasses

import pytest
import torch

from vitrail.contracts import Batch, VitrailError
from vitrail.data import Mixing

K = 8


def one_colour_each(size: int = 40) -> Batch:
    """Picture ``i`` is nothing but the number ``i``, of class ``i``: a mixture shows where each pixel is from."""
    images = torch.arange(K, dtype=torch.float32)[:, None, None, None].expand(K, 3, size, size).contiguous()
    return Batch(images, torch.arange(K), torch.arange(K), tuple(map(str, range(K))))


def test_cutmix_label_mass_is_pixel_mass():
    torch.manual_seed(0)
    shares = []
    for _ in range(60):
        mixed = Mixing(K, mixup=0.0, cutmix=1.0, smoothing=0.0)(one_colour_each())
        for image, label in zip(mixed.images, mixed.labels, strict=True):
            assert torch.equal(image[0], image[2])
            mass = torch.bincount(image[0].flatten().long(), minlength=K) / image[0].numel()
            torch.testing.assert_close(mass, label, atol=1e-6, rtol=0)
        shares.append(mixed.labels[3, 3].item())
    assert min(shares) < 0.45 and max(shares) > 0.9 and 0.4 < sum(shares) / 60 < 0.75


def test_cutmix_pastes_one_box():
    torch.manual_seed(1)
    mixed = Mixing(K, mixup=0.0, smoothing=0.0)(one_colour_each())
    foreign = mixed.images[3, 0] != 3
    rows, columns = foreign.any(1).nonzero().flatten(), foreign.any(0).nonzero().flatten()
    assert 0 < foreign.sum() < foreign.numel()
    assert foreign.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)


def test_mixup_label_mass_is_pixel_mass():
    torch.manual_seed(0)
    lams = []
    for _ in range(100):
        mixed = Mixing(K, cutmix=0.0, smoothing=0.0)(one_colour_each(4))
        expected = mixed.labels @ torch.arange(K, dtype=torch.float32)
        torch.testing.assert_close(mixed.images[:, 1, 2, 3], expected, atol=1e-5, rtol=0)
        lams.append(mixed.labels[0, 0].item())
    lams = torch.tensor(lams)
    # Beta(0.8, 0.8): mean 1/2, variance 1 / (4 * 2.6).
    assert abs(lams.mean() - 0.5) < 0.1 and abs(lams.var() - 1 / 10.4) < 0.03


def test_smoothing_alone_changes_no_pixel():
    batch = one_colour_each(4)
    smoothed = Mixing(K, mixup=0.0, cutmix=0.0)(batch)
    assert smoothed.images is batch.images and smoothed.names == batch.names
    expected = torch.full((K, K), 0.1 / K) + torch.eye(K) * 0.9
    torch.testing.assert_close(smoothed.labels, expected)


def test_smoothing_and_mixing_together():
    torch.manual_seed(2)
    labels = Mixing(K)(one_colour_each()).labels
    torch.testing.assert_close(labels.sum(1), torch.ones(K))
    assert torch.isclose(labels.min(), torch.tensor(0.1 / K))
    assert ((labels - 0.1 / K).clamp(min=0) > 1e-6).sum(1).max() == 2


def test_switch_and_prob():
    torch.manual_seed(0)
    kinds = {"none": 0, "cutmix": 0, "mixup": 0}
    for _ in range(300):
        mixed = Mixing(K, prob=0.6, switch=0.25, mixup=8.0)(one_colour_each(4))
        whole = bool((mixed.images == mixed.images.round()).all())
        same = torch.equal(mixed.images, one_colour_each(4).images)
        kinds["none" if same else "cutmix" if whole else "mixup"] += 1
    # 0.4 unmixed, 0.6 * 0.25 CutMix (a few of them with an empty box), 0.6 * 0.75 Mixup.
    assert 95 < kinds["none"] < 165 and 20 < kinds["cutmix"] < 65 and 105 < kinds["mixup"] < 165


def test_the_given_batch_is_left_alone_and_the_generator_decides():
    batch = one_colour_each()
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        results.append(Mixing(K)(batch))
    assert torch.equal(batch.images, one_colour_each().images) and torch.equal(batch.labels, torch.arange(K))
    assert torch.equal(results[0].images, results[1].images) and torch.equal(results[0].labels, results[1].labels)
    assert not torch.equal(results[0].images, results[2].images)


def test_a_batch_of_one():
    batch = Batch(torch.ones(1, 3, 4, 4), torch.tensor([2]), torch.tensor([0]), ("a",))
    mixed = Mixing(K, smoothing=0.0)(batch)
    torch.testing.assert_close(mixed.images, batch.images)
    torch.testing.assert_close(mixed.labels, torch.eye(K)[[2]])


def test_soft_labels_are_mixed_too():
    batch = dataclasses.replace(one_colour_each(4), labels=torch.full((K, K), 1 / K))
    torch.testing.assert_close(Mixing(K)(batch).labels, batch.labels)
    with pytest.raises(VitrailError, match=r"Labels for 8 classes .* mixing for 9"):
        Mixing(9)(batch)


def test_what_cannot_be_mixed():
    batch = one_colour_each(4)
    with pytest.raises(VitrailError, match="this data set has none"):
        Mixing(K)(dataclasses.replace(batch, labels=None))
    with pytest.raises(VitrailError, match="extras \\(crops\\)"):
        Mixing(K)(dataclasses.replace(batch, extras={"crops": batch.images}))
    with pytest.raises(VitrailError, match="Label 7 is outside the 7 classes"):
        Mixing(7)(batch)
    with pytest.raises(VitrailError, match="Label -1"):
        Mixing(K)(dataclasses.replace(batch, labels=torch.full((K,), -1)))


@pytest.mark.parametrize(
    "wrong", [{"mixup": -1.0}, {"cutmix": float("nan")}, {"smoothing": 1.1}, {"prob": -0.1}, {"switch": 2.0}]
)
def test_impossible_values(wrong):
    with pytest.raises(VitrailError, match=next(iter(wrong))):
        Mixing(K, **wrong)
    with pytest.raises(VitrailError, match="num_classes"):
        Mixing(0)
