"""The loader: the same bits whatever the workers and the cache, and faults that are named."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.finished import FinishedLoader
from tests.data.planted import PlantedSource
from vitrail.contracts import Batch, VitrailError
from vitrail.data import Augment, FolderSource, Mixing, Preprocess, Skipped, TrainTransform, jpeg
from vitrail.data.loader import NothingLeft, _begin_worker
from vitrail.data.reading import Outcome

TRANSFORM = TrainTransform(Preprocess((16, 16)), Augment())


def make(source=None, **options) -> FinishedLoader:
    options = {"batch_size": 6, "seed": 3, "transform": TRANSFORM, **options}
    transform = options.pop("transform")
    return FinishedLoader(source or PlantedSource(), transform, **options)


def same(a: Batch, b: Batch) -> bool:
    return (
        torch.equal(a.images, b.images)
        and torch.equal(a.indices, b.indices)
        and a.names == b.names
        and ((a.labels is None and b.labels is None) or torch.equal(a.labels, b.labels))
        and a.extras.keys() == b.extras.keys()
        and all(torch.equal(a.extras[key], b.extras[key]) for key in a.extras)
    )


def gone(pids: list[int], within: float) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        if not any(running(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# torch counsels against more workers than cores.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_are_bit_equal_for_any_workers_and_cache():
    mixing = Mixing(4)
    reference = make(mixing=mixing, cache=False)
    expected = [list(reference.epoch(epoch)) for epoch in range(2)]
    assert len(expected[0]) == len(reference) == 6
    assert not torch.equal(expected[0][0].images, expected[1][0].images)
    for workers, cache in ((0, True), (1, False), (4, True), (4, False)):
        loader = make(mixing=mixing, cache=cache, workers=workers)
        # Twice the first epoch: once into the cache, once out of it.
        for epoch in (0, 0, 1):
            got = list(loader.epoch(epoch))
            assert len(got) == 6
            assert all(same(a, b) for a, b in zip(got, expected[epoch], strict=True)), (workers, cache, epoch)
        loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_in_the_middle_gives_the_rest(workers):
    loader = make(mixing=Mixing(4), workers=workers)
    whole = list(loader.epoch(5))
    for start in (0, 4, 6):
        rest = list(loader.epoch(5, start))
        assert len(rest) == 6 - start
        assert all(same(a, b) for a, b in zip(rest, whole[start:], strict=True))
    with pytest.raises(VitrailError, match="Batch 7 of epoch 0 does not exist; an epoch has 6 batches"):
        loader.epoch(0, 7)
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_main_process_s_randomness_is_untouched(workers):
    loader = make(mixing=Mixing(4), workers=workers)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    for _ in loader.epoch(0):
        assert torch.equal(torch.get_rng_state(), state)
    expected = [batch.images for batch in loader.epoch(1)]
    torch.manual_seed(99)
    assert all(torch.equal(a.images, b) for a, b in zip(loader.epoch(1), expected, strict=True))
    loader.close()


def test_a_sample_does_not_depend_on_its_batch():
    by_index = []
    for size in (5, 8):
        batches = list(make(batch_size=size).epoch(2))
        images = torch.cat([batch.images for batch in batches])
        by_index.append(images[torch.cat([batch.indices for batch in batches]).argsort()])
    assert len(by_index[0]) == 40
    assert torch.equal(*by_index)


def test_ranks_share_the_global_batch():
    whole = list(make(batch_size=8).epoch(1))
    ranks = [list(make(batch_size=2, rank=rank, world_size=4).epoch(1)) for rank in range(4)]
    for number, batch in enumerate(whole):
        assert torch.equal(torch.cat([rank[number].images for rank in ranks]), batch.images)
        assert torch.equal(torch.cat([rank[number].labels for rank in ranks]), batch.labels)
    # Each rank mixes in its own way.
    mixed = [next(make(batch_size=2, rank=r, world_size=2, mixing=Mixing(4)).epoch(0)).labels for r in range(2)]
    assert not torch.equal(mixed[0].max(), mixed[1].max())


def test_evaluation_yields_every_picture_once_across_ranks():
    seen = []
    for rank in range(3):
        loader = make(shuffle=False, drop_last=False, rank=rank, world_size=3, transform=Preprocess((8, 8)))
        batches = list(loader.epoch(0))
        assert len(batches) == len(loader)
        seen += [int(index) for batch in batches for index in batch.indices]
    assert sorted(seen) == list(range(40))


def test_what_a_batch_holds():
    source = PlantedSource()
    preprocess = Preprocess((8, 8))
    batch = next(make(source, transform=preprocess, shuffle=False).epoch(0))
    assert batch.images.shape == (6, 3, 8, 8) and batch.labels.tolist() == [0, 1, 2, 3, 0, 1]
    assert batch.indices.tolist() == list(range(6)) and batch.names[5] == "picture-5.png"
    assert torch.equal(batch.images[4], preprocess(source.picture(4)))
    assert next(make(PlantedSource(classes=0)).epoch(0)).labels is None


def test_soft_labels_are_the_source_s_probabilities_and_are_mixed():
    source = PlantedSource(count=8, classes=2)
    with pytest.raises(VitrailError, match="no class probabilities"):
        make(source, soft_labels=True)
    source.probabilities = np.linspace([0, 1], [1, 0], 8, dtype=np.float32)
    (hard,) = make(source, batch_size=8).epoch(0)
    (soft,) = make(source, batch_size=8, soft_labels=True).epoch(0)
    assert hard.labels is not None and soft.labels is not None
    assert torch.equal(hard.labels, torch.from_numpy(source.labels)[hard.indices])
    assert torch.equal(soft.labels, torch.from_numpy(source.probabilities)[soft.indices])
    assert torch.equal(hard.images, soft.images)
    (mixed,) = make(source, batch_size=8, soft_labels=True, mixing=Mixing(2, cutmix=0.0, smoothing=0.2)).epoch(0)
    # Each label is shared with one neighbour of the batch, then a tenth goes to either class.
    smooth = soft.labels * 0.8 + 0.1
    share = (mixed.labels[0, 0] - smooth[-1, 0]) / (smooth[0, 0] - smooth[-1, 0])
    torch.testing.assert_close(mixed.labels, share * smooth + (1 - share) * smooth.roll(1, 0))


@pytest.mark.parametrize("workers", [0, 1])
def test_transforms_with_extras(workers):
    def two_views(pixels):
        return {"images": TRANSFORM(pixels), "second": TRANSFORM(pixels).finished()[:, :4]}

    loader = make(transform=two_views, workers=workers)
    batch = next(loader.epoch(0))
    assert batch.images.shape == (6, 3, 16, 16) and batch.extras["second"].shape == (6, 3, 4, 16)
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_pictures_stop_the_run_by_name(workers):
    loader = make(PlantedSource(trouble={17: "broken"}), workers=workers, drop_last=False)
    with pytest.raises(VitrailError, match=r"picture-17\.png: planted"):
        list(loader.epoch(0))
    loader.close()


def test_every_tensor_of_an_outcome_is_pinned(monkeypatch):
    # Without a GPU no memory can be pinned: marked instead.
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 100)
    zero = torch.zeros(1)
    pinned = Outcome(zero, zero, zero, {"tokens": zero}).pin_memory()
    found = (pinned.images, pinned.labels, pinned.indices, *pinned.extras.values())
    assert [int(tensor) for tensor in found if tensor is not None] == [100] * 4
    assert Outcome(skipped=(Skipped("a.png", "planted"),)).pin_memory().images is None


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_pictures_are_left_out_and_counted_once(workers):
    clean = list(make(drop_last=False).epoch(0))
    broken = {17: "broken", 20: "broken"}
    loader = make(PlantedSource(trouble=broken), workers=workers, on_error="skip", drop_last=False)
    for _ in range(2):
        for a, b in zip(loader.epoch(0), clean, strict=True):
            keep = [place for place, index in enumerate(b.indices.tolist()) if index not in (17, 20)]
            assert torch.equal(a.images, b.images[keep]) and torch.equal(a.labels, b.labels[keep])
            assert a.names == tuple(b.names[place] for place in keep)
    assert sorted(loader.skipped) == [Skipped("picture-17.png", "planted"), Skipped("picture-20.png", "planted")]
    loader.close()


def test_a_batch_of_nothing_but_broken_pictures():
    loader = make(PlantedSource(6, trouble=dict.fromkeys(range(6), "broken")), on_error="skip")
    with pytest.raises(VitrailError, match=r"Every picture of batch 0 is broken: picture-\d\.png: planted"):
        list(loader.epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_where_nothing_is_trained_a_batch_of_broken_pictures_is_passed_over(workers):
    broken = dict.fromkeys([*range(6, 12), *range(36, 40)], "broken")
    options = {"workers": workers, "on_error": "skip", "shuffle": False, "drop_last": False}
    loader = make(PlantedSource(trouble=broken), **options)
    for start in (0, 1):
        indices = [int(index) for batch in loader.epoch(0, start) for index in batch.indices]
        assert indices == [*range(6 * (start == 0)), *range(12, 36)]
    assert sorted(int(name[8:-4]) for name, _ in loader.skipped) == sorted(broken)
    loader.close()
    hopeless = make(PlantedSource(9, trouble=dict.fromkeys(range(9), "broken")), **options)
    with pytest.raises(NothingLeft, match=r"every picture was broken: .*picture-0\.png: planted") as error:
        list(hopeless.epoch(0))
    assert len(error.value.skipped) == len(hopeless.skipped) == 9
    hopeless.close()
    # One of several processes cannot tell, and must not leave the others waiting.
    half = PlantedSource(8, trouble=dict.fromkeys(range(4), "broken"))
    shared = make(half, **options, batch_size=4, world_size=2)
    assert not list(shared.epoch(0)) and len(shared.skipped) == 4
    shared.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_bugs_keep_their_traceback(workers):
    loader = make(PlantedSource(trouble=dict.fromkeys(range(40), "bug")), workers=workers)
    with pytest.raises(RuntimeError, match=r"(?s)batch 0 failed: a bug in the source.*in picture"):
        list(loader.epoch(0))
    loader.close()


def test_a_transform_that_does_not_fit_names_the_picture():
    loader = make(transform=Preprocess((8, 8), mean=(0.5,) * 5, std=(0.5,) * 5), shuffle=False)
    with pytest.raises(VitrailError, match=r"picture-0\.png: A picture of 3 channels"):
        list(loader.epoch(0))


def test_a_killed_worker_is_an_error_that_names_its_file():
    loader = make(PlantedSource(trouble={9: "kill"}), workers=2, shuffle=False, cache=False)
    begun = time.monotonic()
    with pytest.raises(VitrailError, match=r"worker died .* in hand: picture-9\.png \(batch 1 of epoch 0\)"):
        list(loader.epoch(0))
    assert time.monotonic() - begun < 20
    # The loader can be used again.
    loader.source.trouble.clear()
    loader._reader.source.trouble.clear()
    assert len(list(loader.epoch(0))) == 6
    loader.close()


@pytest.mark.parametrize(("orphan", "code"), [(False, 0), (True, 1)])
def test_a_worker_whose_parent_died_before_it_began_ends(orphan: bool, code: int):
    parent = os.getppid() if orphan else os.getpid()
    worker = multiprocessing.get_context("fork").Process(target=_begin_worker, args=(parent, 0))
    worker.start()
    worker.join(30)
    assert worker.exitcode == code


def test_a_death_is_told_at_the_next_batch_not_amid_other_work():
    loader = make(workers=1)
    stream = loader.epoch(0)
    next(stream)
    os.kill(loader._hands.pids()[0], signal.SIGKILL)
    # Stands for the writing of a checkpoint, which must not be torn by an exception from a signal handler.
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(VitrailError, match="worker died"):
        list(stream)
    assert len(list(loader.epoch(0))) == 6
    loader.close()


def test_a_slow_file_is_named_after_a_bounded_wait():
    loader = make(PlantedSource(trouble={3: "slow"}), workers=1, shuffle=False, timeout_s=1.0, cache=False)
    begun = time.monotonic()
    stream = loader.epoch(0)
    with pytest.raises(
        VitrailError, match=r"No batch came for 1 s\. Being read: picture-3\.png \(batch 0 of epoch 0\)"
    ):
        next(stream)
    assert time.monotonic() - begun < 15
    assert gone(loader._hands.pids(), 5)


def test_workers_go_when_the_consumer_stops_early():
    loader = make(workers=2)
    stream = loader.epoch(0)
    next(stream)
    pids = loader._hands.pids()
    assert len(pids) >= 1 and all(map(running, pids))
    del stream, loader
    assert gone(pids, 8)


def test_one_pool_serves_all_epochs_and_the_old_epoch_ends():
    loader = make(workers=2)
    first = loader.epoch(0)
    next(first)
    second = list(loader.epoch(1))
    pids = set(loader._hands.pids())
    assert all(same(a, b) for a, b in zip(second, make().epoch(1), strict=True))
    with pytest.raises(VitrailError, match="Epoch 0 of this loader was ended by a later call"):
        next(first)
    list(loader.epoch(2))
    assert set(loader._hands.pids()) == pids and len(pids) == 2
    loader.close()
    assert gone(list(pids), 8)


def test_workers_leave_when_the_main_process_is_killed(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from tests.data.test_loader import make
        loader = make(workers=2)
        stream = loader.epoch(0)
        next(stream); next(stream)
        print(*loader._hands.pids(), flush=True)
        time.sleep(60)
        """)
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2 and all(map(running, pids))
        process.kill()
    assert gone(pids, 20)


def test_ctrl_c_does_not_reach_the_workers():
    loader = make(workers=2)
    stream = loader.epoch(0)
    next(stream)
    time.sleep(0.2)
    for pid in loader._hands.pids():
        os.kill(pid, signal.SIGINT)
    assert len(list(stream)) == 5
    loader.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 41}, "larger than the data set of 40"),
        ({"workers": -1}, "workers must be 0 or more"),
        ({"timeout_s": 0.0}, "timeout_s must be a positive"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(VitrailError, match=message):
        make(**options)


@pytest.mark.parametrize("options", [{"on_error": "replace"}, {"cache": "always"}])
def test_unknown_choices(options):
    # With shapes and types checked at run time, the checker is the first to refuse.
    with pytest.raises((VitrailError, TypeError), match=next(iter(options))):
        make(**options)


def test_the_files_of_a_data_set_are_not_changed(class_folder):
    def state() -> dict:
        return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in class_folder.rglob("*") if p.is_file()}

    before = state()
    loader = make(FolderSource(class_folder), batch_size=4, workers=1, cache=True)
    for epoch in range(2):
        assert len(list(loader.epoch(epoch))) == 2
    loader.close()
    assert state() == before and len(before) == 8


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(12):
        small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        path = tmp_path / "ab"[number % 2] / f"{number:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        small.resize((60 + number, 90), Image.Resampling.BICUBIC).save(path, quality=90)
    return tmp_path


def test_parts_of_files_change_no_bit(photographs, monkeypatch):
    options = {"drop_last": False, "transform": TrainTransform(Preprocess((32, 32)), Augment(quarter_turns=True))}
    cached = list(make(FolderSource(photographs), cache=True, **options).epoch(2))
    for workers in (0, 2):
        loader = make(FolderSource(photographs), cache=False, workers=workers, **options)
        assert all(same(a, b) for a, b in zip(loader.epoch(2), cached, strict=True))
        loader.close()
    monkeypatch.setattr(jpeg, "part_decoder", lambda: None)
    without = make(FolderSource(photographs), cache=False, **options)
    assert all(same(a, b) for a, b in zip(without.epoch(2), cached, strict=True))


@pytest.mark.parametrize("cache", [False, True])
def test_a_file_that_proves_broken_when_it_is_decoded(photographs, cache):
    path = photographs / "b" / "05.jpg"
    data = bytearray(path.read_bytes())
    table = data.index(b"\xff\xc4")
    # More codes than a Huffman table may have: the header does not tell.
    data[table + 5 : table + 21] = b"\xff" * 16
    path.write_bytes(data)
    options = {"drop_last": False, "cache": cache}
    with pytest.raises(VitrailError, match=r"05\.jpg: broken or cut off"):
        list(make(FolderSource(photographs), **options).epoch(0))
    loader = make(FolderSource(photographs), on_error="skip", **options)
    assert sum(len(batch) for batch in loader.epoch(0)) == 11
    assert [Path(skipped.name).name for skipped in loader.skipped] == ["05.jpg"]
