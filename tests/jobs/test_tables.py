"""Rows in files: every format gives back what went in, a part at a time, whole or not at all."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vitrail.contracts import VitrailError
from vitrail.jobs import tables
from vitrail.jobs.bulk import StoredParts, read_part, run_in_parts, write_part
from vitrail.jobs.tables import Row, write_table

ROWS: list[Row] = [
    {"name": f"ä,{i}", "count": i, "top": ["7", "b"], "vector": np.array([i, 0.1 * i], np.float32), "score": i / 3}
    for i in range(7)
]


def plain(row: Row) -> Row:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_every_format_gives_back_the_rows_in_order_and_of_their_types(tmp_path: Path, ending: str) -> None:
    # Also after a part without rows, as of pictures without objects.
    table = write_table([[], ROWS[:3], ROWS[3:]], tmp_path / f"rows.{ending}")
    assert list(table) == [plain(row) for row in ROWS] == list(table)
    assert len(table) == 7 and table[-1] == plain(ROWS[6]) and table[1:6:2] == [plain(ROWS[i]) for i in (1, 3, 5)]
    with pytest.raises(IndexError):
        table[7]
    assert list(write_table([[]], tmp_path / f"none.{ending}")) == []


def test_a_column_may_become_fractional_in_a_later_part(tmp_path: Path) -> None:
    table = write_table([[{"x": 1}], [{"x": 0.5}]], tmp_path / "rows.parquet")
    assert [row["x"] for row in table] == [1.0, 0.5]


class Part(list[Row]):
    alive = 0

    def __init__(self, rows: list[Row]) -> None:
        super().__init__(rows)
        Part.alive += 1

    def __del__(self) -> None:
        Part.alive -= 1


class Counted:
    """Parts that tell how many of them are in memory when the next is asked for."""

    def __init__(self) -> None:
        self.most = 0

    def __iter__(self) -> Iterator[Part]:
        for number in range(20):
            self.most = max(self.most, Part.alive)
            yield Part([{"name": str(number), "vector": np.zeros(3, np.float32)}])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_parts_are_let_go_as_they_are_written(tmp_path: Path, ending: str) -> None:
    parts = Counted()
    assert len(write_table(parts, tmp_path / f"rows.{ending}")) == 20
    assert parts.most <= 2


def test_stored_parts_keep_vectors_as_numbers_and_columns_in_order(tmp_path: Path) -> None:
    write_part(ROWS, tmp_path / "a.npz")
    write_part([], tmp_path / "b.npz")
    found = read_part(tmp_path / "a.npz")
    assert [list(row) for row in found] == [list(row) for row in ROWS]
    assert [plain(row) for row in found] == [plain(row) for row in ROWS] and found[0]["vector"].dtype == np.float32
    assert [len(part) for part in StoredParts([tmp_path / "b.npz", tmp_path / "a.npz"])] == [0, 7]
    # What was cut off while it was written is no part.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(part: range) -> list[Row]:
        raise AssertionError("worked")

    with pytest.raises(VitrailError, match=r"one of \.csv, \.jsonl, \.parquet"):
        run_in_parts(["a"], "key", work, tmp_path / "rows.txt")
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(VitrailError, match=r"vitrail\[scale\]"):
        run_in_parts(["a"], "key", work, tmp_path / "rows.parquet")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_full_disk_leaves_nothing_of_a_table(ending: str, tmp_path: Path) -> None:
    class Full(list[list[Row]]):
        def __iter__(self) -> Iterator[list[Row]]:
            yield ROWS[:3]
            raise OSError(28, "No space left on device")

    with pytest.raises(VitrailError, match=rf"rows\.{ending}: .*No space left"):
        write_table(Full(), tmp_path / f"rows.{ending}")
    assert not list(tmp_path.iterdir())
