"""What bulk jobs are asked for: refused before any work where it cannot be, and never in the way of its correction."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny import TINY
from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.jobs import inference
from vitrail.jobs.bulk import read_part, run_in_parts, write_part
from vitrail.jobs.embed import EmbedConfig, embed
from vitrail.jobs.inference import Outputs
from vitrail.jobs.predict import FORMS, predict, refuse_foreign
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.tables import Row, paths_of, picture_name
from vitrail.models import Backbone, Detr, DualEncoder, Sam, build, config_of
from vitrail.weights import Artefact

HERE: dict[str, Any] = {"device": "cpu", "precision": "fp32", "workers": 0}
ODD = (b"\xff.png", b"a\nb.png", "über \u202f 猫.png".encode())


@pytest.fixture
def odd(photos: Path, tmp_path: Path) -> Path:
    """Pictures of names that are not UTF-8, hold a line break, or what no alphabet has."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for number, name in enumerate(ODD):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes((photos / f"red/0{number}.png").read_bytes())
    return folder


def read_names(file: Path) -> list[str]:
    if file.suffix == ".csv":
        return [row["name"] for row in csv.DictReader(file.open(newline="", encoding="utf-8"))]
    if file.suffix == ".jsonl":
        return [json.loads(line)["name"] for line in file.read_text(encoding="utf-8").splitlines()]
    import pyarrow.parquet as pq

    return pq.read_table(file).column("name").to_pylist()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("verb", ["predict", "embed"])
def test_every_file_name_has_one_form_in_every_table(
    verb: str, ending: str, trained: Path, odd: Path, tmp_path: Path
) -> None:
    out = tmp_path / f"out.{ending}"
    options = {"source": str(odd), "model": str(trained), "out": out, **HERE}
    if verb == "predict":
        rows = predict(PredictConfig(draw=tmp_path / "drawn", **options))
        drawn = {path.name for path in (tmp_path / "drawn").iterdir()}
        assert drawn == {os.fsdecode(name) for name in ODD}
    else:
        rows = embed(EmbedConfig(**options))
    # Only what UTF-8 cannot hold is escaped: all other names still open their files.
    expected = {f"{odd}/\\udcff.png", f"{odd}/a\nb.png", f"{odd}/über \u202f 猫.png"}
    assert len(rows) == 3 and {row["name"] for row in rows} == set(read_names(out)) == expected


def test_rows_find_their_pictures_where_two_names_read_alike() -> None:
    paths = ["\udcff", "b", "\\udcff", "c"]
    rows: list[Row] = [{"name": picture_name(path)} for path in (paths[0], paths[2], paths[3])]
    assert [path for _, path in paths_of(rows, paths)] == ["\udcff", "\\udcff", "c"]


def test_a_job_that_failed_before_its_first_part_is_nobody_s(tmp_path: Path) -> None:
    def stop(part: range) -> list[Row]:
        raise KeyboardInterrupt

    def work(part: range) -> list[Row]:
        if 2 in part:
            raise KeyboardInterrupt
        return [{"name": str(number)} for number in part]

    out = tmp_path / "rows.csv"
    with pytest.raises(KeyboardInterrupt):
        run_in_parts(["a"], "one", stop, out)
    assert list(run_in_parts(["a"], "two", work, out)) == [{"name": "0"}]
    with pytest.raises(KeyboardInterrupt):
        run_in_parts(["a", "b", "c"], "two", work, out, part=2)
    with pytest.raises(VitrailError, match="another job"):
        run_in_parts(["a", "b", "c"], "three", work, out, part=2)


def test_a_job_whose_folder_was_taken_over_adds_no_part_to_the_other_s(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"

    def stop(part: range) -> list[Row]:
        raise KeyboardInterrupt

    def meanwhile(part: range) -> list[Row]:
        with pytest.raises(KeyboardInterrupt):
            run_in_parts(["a"], "two", stop, out)
        return [{"name": "one"}]

    with pytest.raises(VitrailError, match="taken it over"):
        run_in_parts(["a"], "one", meanwhile, out)
    assert list(run_in_parts(["a"], "two", lambda part: [{"name": "two"}], out)) == [{"name": "two"}]


def stopping(names: list[str], done: list[int], at: int | None = None) -> Callable[[range], list[Row]]:
    """Work that reads its pictures, keeps count of them, and is stopped before one of them."""

    def work(part: range) -> list[Row]:
        if at is not None and at in part:
            raise KeyboardInterrupt
        done.extend(part)
        return [{"name": names[i], "text": Path(names[i]).read_text()} for i in part]

    return work


@pytest.fixture
def begun(tmp_path: Path) -> list[str]:
    """Ten files, of which a job has worked on the first six, in parts of two, before it was stopped."""
    names = [str(tmp_path / f"{number}.txt") for number in range(10)]
    for name in names:
        Path(name).write_text("old")
    with pytest.raises(KeyboardInterrupt):
        run_in_parts(names, "key", stopping(names, [], at=6), tmp_path / "rows.csv", part=2)
    return names


@pytest.mark.parametrize("damage", ["emptied", "halved", "foreign", *range(0, 800, 40)])
def test_a_damaged_part_is_named_and_worked_on_again(
    damage: str | int, begun: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / ".rows.csv.parts" / f"{2:012d}.npz"
    content = bytearray(part.read_bytes())
    if isinstance(damage, int):
        content[damage % len(content)] ^= 4
    named = {"emptied": b"", "halved": content[: len(content) // 2], "foreign": b"no part"}
    part.write_bytes(named.get(str(damage), bytes(content)))
    done: list[int] = []

    def work(numbers: range) -> list[Row]:
        # It is met before the work on the rest, not after.
        assert f"{part}: is damaged; its pictures are worked on again" in capsys.readouterr().err or done
        return stopping(begun, done)(numbers)

    rows = run_in_parts(begun, "key", work, tmp_path / "rows.csv", part=2)
    assert done == [2, 3, 6, 7, 8, 9]
    assert [row["name"] for row in rows] == begun and {row["text"] for row in rows} == {"old"}


def test_pictures_that_changed_since_are_worked_on_again_and_no_others(
    begun: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(begun[1]).write_text("another length")
    before = Path(begun[4]).stat()
    Path(begun[4]).write_text("new")
    os.utime(begun[4], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    done: list[int] = []
    rows = run_in_parts(begun, "key", stopping(begun, done), tmp_path / "rows.csv", part=2)
    assert done == [0, 1, 4, 5, 6, 7, 8, 9]
    assert [row["text"] for row in rows] == ["old", "another length", "old", "old", "new", *["old"] * 5]
    assert "2 finished parts are of pictures that have changed since" in capsys.readouterr().err


def test_a_part_that_is_damaged_while_the_job_runs_is_an_error_that_names_it(tmp_path: Path) -> None:
    write_part([{"name": "a"}], tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-9])
    with pytest.raises(VitrailError, match=r"a\.npz: this part of an unfinished job is damaged; run the same command"):
        read_part(tmp_path / "a.npz")


def test_prediction_takes_nothing_of_a_picture_that_was_replaced(
    trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(photos / "red", folder)
    config = PredictConfig(source=str(folder), model=str(trained), out=tmp_path / "rows.csv", batch_size=1, **HERE)
    monkeypatch.setattr("vitrail.jobs.predict_classes.run_in_parts", lambda *job: run_in_parts(*job, part=4))
    ask, asked = inference.part_of_job, []

    def ask_once(run: Callable[[], Outputs]) -> Outputs | None:
        if asked:
            raise KeyboardInterrupt
        asked.append(run)
        return ask(run)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(inference, "part_of_job", ask_once)
        predict(config)
    for picture in folder.iterdir():
        shutil.copy(photos / "green" / picture.name, picture)
    assert {row["label"] for row in predict(config)} == {"green"}


def test_a_pool_that_the_model_lacks_is_refused_before_files_are_made(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(config_of("resnet18", {**TINY["resnet18"], "num_classes": 0}))
    Artefact(model, (), Preprocess(size=model.img_size)).save_pretrained(tmp_path / "model")
    options = {"source": str(photos / "red"), "model": str(tmp_path / "model"), **HERE}
    with pytest.raises(VitrailError, match="no class token: pool the mean"):
        embed(EmbedConfig(out=tmp_path / "out" / "e.csv", pool="class", **options))
    assert not (tmp_path / "out").exists()
    assert len(embed(EmbedConfig(out=tmp_path / "out" / "e.csv", pool="mean", **options))) == 12


@pytest.mark.parametrize("out", ["file/y.csv", "file/deep/y.csv", "folder.csv"])
def test_a_place_where_no_table_can_be_is_refused_before_the_work(out: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()

    def work(part: range) -> list[Row]:
        raise AssertionError("worked")

    with pytest.raises(VitrailError, match=r"give another folder with --out|give the name of a file with --out"):
        run_in_parts(["a"], "key", work, tmp_path / out)


def test_a_folder_for_drawings_that_cannot_be_is_refused_before_the_work(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    config = PredictConfig(
        source=str(photos), model=str(trained), out=tmp_path / "a.csv", draw=tmp_path / "file" / "y", **HERE
    )
    with pytest.raises(VitrailError, match="give another folder with --draw"):
        predict(config)
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize(
    ("options", "takes"),
    [
        ({"labels": ("cat", "dog")}, "image-text models take --labels"),
        ({"threshold": 0.1}, "detectors take --threshold"),
        ({"points": ("1,2",), "boxes": ("1,2,3,4",)}, "promptable segmenters take --points, --boxes"),
        ({"mask_quality": 0.5}, "promptable segmenters take --mask-quality"),
    ],
)
def test_options_of_another_kind_of_model_are_refused(
    options: dict[str, Any], takes: str, trained: Path, photos: Path, tmp_path: Path
) -> None:
    config = PredictConfig(source=str(photos), model=str(trained), out=tmp_path / "a.csv", **options, **HERE)
    with pytest.raises(VitrailError, match=f"is a VisionTransformer, but only {takes}"):
        predict(config)


def test_every_kind_of_model_refuses_what_it_would_ignore() -> None:
    for option in ("top", "labels", "template", "threshold", "min_region"):
        given: dict[str, Any] = {option: 3}
        config = PredictConfig(source="photos", model="runs/x", **given)
        takers = []
        for kind in FORMS:
            with suppress(VitrailError):
                refuse_foreign(config, kind, kind.__name__)
                takers.append(kind)
        expected = {"top": [Backbone, DualEncoder], "threshold": [Detr], "min_region": [Sam]}
        assert takers == expected.get(option, [DualEncoder])


def test_seeds_that_no_generator_takes_are_refused_by_value() -> None:
    most = 2**63 - 1
    torch.manual_seed(EmbedConfig(source="pictures", seed=most).seed)
    with pytest.raises(VitrailError, match=f"seed must be at most {most}, not 99999999999999999999"):
        EmbedConfig(source="pictures", seed=99999999999999999999)
