"""The stateless order: a partition each epoch, the same for any world size, resumable anywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.contracts import VitrailError
from vitrail.data.order import Order, batch_seed, permutation, sample_seeds

seeds = st.integers(0, 2**31)


def all_batches(length, batch_size, world, epoch, **options) -> list[list[list[int]]]:
    """``[batch][rank] -> indices``"""
    ranks = [
        [part.tolist() for _, part in Order(length, batch_size, rank=rank, world_size=world, **options).batches(epoch)]
        for rank in range(world)
    ]
    return [[rank[number] for rank in ranks if number < len(rank)] for number in range(len(ranks[0]))]


@given(st.integers(1, 300), seeds, st.integers(0, 50))
def test_permutation_holds_every_sample_once(length, seed, epoch):
    assert np.array_equal(np.sort(permutation(length, seed, epoch)), np.arange(length))


def test_permutation_is_fixed_for_all_time():
    # A change of these numbers breaks the resuming of every run in progress.
    assert permutation(10, seed=0, epoch=0).tolist() == [1, 9, 7, 0, 8, 6, 4, 2, 5, 3]
    assert sample_seeds(1, 2, np.array([3, 4])) == [6888785995076829092, 4099056671801835312]
    assert batch_seed(1, 2, 3, 4) == 8152377559742351920


def test_epochs_and_seeds_differ():
    orders = {tuple(permutation(50, seed, epoch)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100
    # (seed 1, epoch 2) is not (seed 2, epoch 1).
    assert not np.array_equal(permutation(50, 1, 2), permutation(50, 2, 1))


def test_permutation_is_uniform():
    first = np.bincount([permutation(5, seed, 0)[0] for seed in range(2000)], minlength=5)
    assert first.min() > 330 and first.max() < 470


@given(st.integers(0, 200), st.integers(1, 9), seeds, st.integers(0, 9), st.booleans())
def test_world_sizes_see_the_same_samples(more, per_four, seed, epoch, drop_last):
    length = 4 * per_four + more
    options = {"seed": seed, "drop_last": drop_last}
    by_world = {
        world: [
            [index for rank in batch for index in rank]
            for batch in all_batches(length, 4 * per_four // world, world, epoch, **options)
        ]
        for world in (1, 2, 4)
    }
    assert by_world[1] == by_world[2] == by_world[4]
    seen = [index for batch in by_world[1] for index in batch]
    whole = length - length % (4 * per_four) if drop_last else length
    assert len(seen) == len(set(seen)) == whole
    sizes = [len(rank) for batch in all_batches(length, per_four, 4, epoch, **options)[:-1] for rank in batch]
    assert set(sizes) <= {per_four}


@given(st.integers(1, 100), st.integers(1, 9), st.sampled_from([1, 2, 3, 4]), st.integers(0, 3))
def test_evaluation_sees_every_sample_once_in_order(length, batch_size, world, epoch):
    parts = all_batches(length, batch_size, world, epoch, shuffle=False, drop_last=False)
    assert [index for batch in parts for rank in batch for index in rank] == list(range(length))
    last = [len(rank) for rank in parts[-1]]
    assert max(last) - min(last) <= 1
    for rank in range(world):
        order = Order(length, batch_size, shuffle=False, drop_last=False, rank=rank, world_size=world)
        assert len(order) == len(list(order.batches(0)))


@given(st.integers(12, 100), st.integers(0, 3), st.booleans())
def test_steps_are_the_same_however_a_batch_is_divided(length, epoch, drop_last):
    def steps(world, accumulate):
        """The samples of every step of 12, over all ranks."""
        found = {}
        for rank in range(world):
            order = Order(
                length,
                12 // (world * accumulate),
                drop_last=drop_last,
                rank=rank,
                world_size=world,
                accumulate=accumulate,
            )
            for number, part in order.batches(epoch):
                found.setdefault(number // accumulate, set()).update(part.tolist())
        return found

    whole = steps(1, 1)
    assert len(whole) == (length // 12 if drop_last else -(-length // 12))
    for division in ((1, 4), (4, 1), (2, 2), (3, 4), (1, 12)):
        assert steps(*division) == whole, division


@given(st.integers(8, 100), st.integers(1, 8), st.data())
def test_resuming_in_the_middle(length, batch_size, data):
    order = Order(length, batch_size, seed=5)
    start = data.draw(st.integers(0, len(order)))
    whole = [(number, part.tolist()) for number, part in order.batches(3)]
    assert [(number, part.tolist()) for number, part in order.batches(3, start)] == whole[start:]


def test_seeds_are_distinct():
    many = {seed for epoch in range(20) for seed in sample_seeds(7, epoch, np.arange(500))}
    assert len(many) == 10_000
    # torch's CPU generator uses the low 32 bits alone.
    assert len({seed & 0xFFFFFFFF for seed in many}) > 9_990
    assert len({batch_seed(7, e, b, r) for e in range(10) for b in range(10) for r in range(10)}) == 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "data set is empty"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        (
            {"batch_size": 11},
            "A batch of 11 is larger than the data set of 10 pictures; lower batch_size to at most 10",
        ),
        ({"batch_size": 6, "world_size": 2}, "6 x 2 processes = 12 is larger .* at most 10 over all of them"),
        ({"batch_size": 3, "accumulate": 4}, "3 x accumulate 4 = 12 is larger .* at most 10 over all of them"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2 processes"),
    ],
)
def test_impossible_orders(options, message):
    with pytest.raises(VitrailError, match=message):
        Order(**{"length": 10, "batch_size": 2, **options})


def test_start_outside_the_epoch():
    with pytest.raises(VitrailError, match="Batch 6 does not exist: an epoch has 5 batches"):
        next(Order(10, 2).batches(0, 6))
