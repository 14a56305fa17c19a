"""The cache: the same pixels, read once, within its bounds, shared with forked workers."""

import multiprocessing
import pickle
import resource
from pathlib import Path

import pytest
import torch

from tests.data.planted import PlantedSource
from vitrail.contracts import VitrailError
from vitrail.data import DigitsSource, PictureCache
from vitrail.data.cache import AUTO_BYTES, free_memory, make_cache


def test_pixels_are_the_source_s_and_read_once():
    source = PlantedSource()
    cache = PictureCache(source, 1 << 20)
    for _ in range(3):
        assert all(torch.equal(cache.pixels(index), PlantedSource().pixels(index)) for index in range(40))
    assert source.reads == 40
    assert cache.used == sum(PlantedSource().pixels(index).numel() for index in range(40))


def test_room_is_bounded():
    source = PlantedSource()
    cache = PictureCache(source, 3000)
    for _ in range(2):
        assert all(torch.equal(cache.pixels(index), PlantedSource().pixels(index)) for index in range(40))
    assert 0 < cache.used <= 3000
    assert 40 < source.reads < 80


@pytest.mark.parametrize(("capacity", "reads"), [(1 << 20, 40), (12_000, 40 + 24)])
def test_whole_gives_up_when_not_all_would_fit(capacity, reads):
    source = PlantedSource()
    cache = PictureCache(source, capacity, whole=True)
    for _ in range(2):
        for index in range(40):
            cache.pixels(index)
    # 16 pictures were kept before it was clear.
    assert source.reads == reads


def test_forked_processes_fill_it_for_each_other():
    cache = PictureCache(PlantedSource(), 1 << 20)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=read_all, args=(cache, first)) for first in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert all(torch.equal(cache.pixels(index), PlantedSource().pixels(index)) for index in range(40))
    assert cache.source.reads == 0


def read_all(cache: PictureCache, first: int) -> None:
    for index in [*range(first, 40), *range(first)]:
        assert torch.equal(cache.pixels(index), PlantedSource().pixels(index))


def test_a_spawned_process_reads_the_source():
    copy = pickle.loads(pickle.dumps(PictureCache(PlantedSource(), 1 << 20)))
    for _ in range(2):
        assert torch.equal(copy.pixels(3), PlantedSource().pixels(3))
    assert copy.source.reads == 2 and copy.used == 0


def test_broken_pictures_are_not_kept():
    source = PlantedSource(trouble={3: "broken"})
    cache = PictureCache(source, 1 << 20)
    for _ in range(2):
        with pytest.raises(VitrailError, match="planted"):
            cache.pixels(3)
    source.trouble.clear()
    assert torch.equal(cache.pixels(3), source.pixels(3))


def test_what_is_asked_for():
    source = PlantedSource()
    assert make_cache(source, False) is None
    # In memory already: nothing to gain.
    assert make_cache(DigitsSource(), True) is None
    auto, always = make_cache(source, "auto"), make_cache(source, True)
    assert auto is not None and auto.whole and auto.capacity <= AUTO_BYTES
    assert always is not None and not always.whole
    assert source.reads == 0
    assert 1 << 20 < free_memory() < 1 << 50


def test_where_memory_may_not_be_reserved_there_is_no_cache():
    # In a process of its own: the limit cannot be taken back for what else runs here.
    child = multiprocessing.get_context("fork").Process(target=ask_under_a_limit)
    child.start()
    child.join()
    assert child.exitcode == 0


def ask_under_a_limit() -> None:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + free_memory() // 8
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with pytest.raises(OSError, match="Cannot allocate memory"):
        PictureCache(PlantedSource(), free_memory() // 4)
    assert make_cache(PlantedSource(), True) is None


def test_it_opens_what_it_will_not_keep_as_the_source_does():
    source = PlantedSource()
    opened = []
    source.open = lambda index: opened.append(index) or source.pixels(index)
    roomy, small = PictureCache(source, 1 << 20), PictureCache(source, 12_000, whole=True)
    for index in range(40):
        assert torch.equal(roomy.open(index), PlantedSource().pixels(index))
    # What can be kept is decoded whole.
    assert not opened
    for _ in range(2):
        for index in range(40):
            assert torch.equal(small.open(index), PlantedSource().pixels(index))
    assert opened == [*range(16, 40), *range(16, 40)]
