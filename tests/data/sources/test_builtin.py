"""The data sets that come in packages."""

import numpy as np
import pytest
import torch

from vitrail.data import DigitsSource, ElpvSource, SubsetSource, open_data, to_pixels


def test_digits():
    train, val = open_data("digits")
    assert (len(train), len(val)) == (1348, 449)
    assert train.classes == tuple("0123456789")
    source = DigitsSource()
    assert source.pixels(0).shape == (1, 8, 8) and int(source.data.max()) == 255
    assert torch.equal(source.pixels(7), to_pixels(source.picture(7)))
    # sklearn's level 8 of 16 is the middle.
    assert set(source.data.unique().tolist()) == {(level * 255 + 8) // 16 for level in range(17)}


def test_elpv():
    pytest.importorskip("elpv_dataset")
    train, val = open_data("elpv")
    assert (len(train), len(val)) == (1968, 656)
    source = ElpvSource()
    assert len(source) == 2624 and source.classes == ("functional", "defective")
    assert int(source.labels.sum()) == 821 and np.bincount(val.labels).tolist() == [451, 205]
    assert source.probabilities is not None and source.probabilities.shape == (2624, 2)
    functional, defective = source.probabilities.T
    assert np.array_equal(source.labels, defective > 0.5) and np.allclose(functional + defective, 1)
    assert sorted(set(defective.round(3).tolist())) == pytest.approx([0.0, 0.333, 0.667, 1.0], abs=1e-3)
    # The held-out half keeps its own rows.
    assert isinstance(val, SubsetSource) and val.probabilities is not None
    assert np.array_equal(val.probabilities, source.probabilities[val.indices])
    assert set(source.cell_type) == {"mono", "poly"}
    picture = val.picture(0)
    assert picture.size == (300, 300) and picture.mode == "L" and val.name(0).startswith("images/cell")
