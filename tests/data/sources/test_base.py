"""What every source is made of."""

import pytest
import torch

from tests.data.planted import PlantedSource
from vitrail.contracts import VitrailError
from vitrail.data import SubsetSource
from vitrail.data.sources.base import PackedNames


def test_packed_names():
    names = ["a.png", "", "été/写真.png", "two\nlines", "byte\udcff.png", "x" * 5000]
    packed = PackedNames(names)
    assert len(packed) == 6 and [packed[index] for index in range(6)] == names
    assert [packed[-1], packed[-6]] == [names[-1], names[0]]
    with pytest.raises(IndexError):
        packed[6]


def test_subset():
    source = PlantedSource(20)
    subset = SubsetSource(source, [19, 3, 3])
    assert len(subset) == 3 and subset.name(0) == "picture-19.png" and subset.labels.tolist() == [3, 3, 3]
    assert torch.equal(subset.pixels(1), source.pixels(3))
    with pytest.raises(VitrailError, match="outside 0 … 19"):
        SubsetSource(source, [20])
