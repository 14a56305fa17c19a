"""Seeded choices from a source: shares, repeatability, refusals."""

import numpy as np
import pytest

from vitrail.contracts import VitrailError
from vitrail.data import DigitsSource, SubsetSource, sample_source, shots_source


@pytest.fixture(scope="module")
def uneven():
    """90 zeros, 9 ones, 2 twos."""
    source = DigitsSource()
    places = [np.flatnonzero(source.labels == label)[:count] for label, count in ((0, 90), (1, 9), (2, 2))]
    return SubsetSource(source, np.concatenate(places))


def test_a_sample_has_every_class_by_its_share(uneven):
    sample = sample_source(uneven, 20, seed=0)
    assert np.bincount(sample.labels).tolist() == [17, 2, 1]
    assert len({sample.name(i) for i in range(20)}) == 20
    assert sample_source(uneven, 500, seed=0) is uneven
    for count in (3, 4, 50, 100):
        assert len(sample_source(uneven, count, seed=1)) == count


def test_the_seed_decides(uneven):
    def names(seed):
        sample = sample_source(uneven, 20, seed)
        return [sample.name(i) for i in range(20)]

    assert names(3) == names(3) != names(4)


def test_shots_are_of_every_class_all_where_there_are_fewer(uneven):
    assert np.bincount(shots_source(uneven, 5, seed=0).labels).tolist() == [5, 5, 2]


def test_what_cannot_be_chosen_is_refused(uneven):
    with pytest.raises(VitrailError, match="2 pictures cannot stand for 3 classes"):
        sample_source(uneven, 2, seed=0)
    with pytest.raises(VitrailError, match="shots must be at least 1"):
        shots_source(uneven, 0, seed=0)
