"""CSV files: what they may say, and every mistake in them named, with its line."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.planted import GREEN, colour, write_csv
from vitrail.contracts import VitrailError
from vitrail.data import CsvSource, open_data


def test_csv(class_folder):
    absolute = class_folder / "pear" / "1.png"
    rows = f"1,apple/0.png,ripe\n2,{absolute}, raw \n\n3,apple/1.png,raw\n"
    path = write_csv(class_folder, "\ufeffid, Image ,label\n" + rows)
    source = CsvSource(path)
    assert source.classes == ("raw", "ripe") and source.labels.tolist() == [1, 0, 0]
    assert colour(source, 1) == GREEN and source.name(2) == str(class_folder / "apple" / "1.png")
    assert not source.has_split
    assert CsvSource(path, labelled=False).classes == ()


def test_csv_columns_that_are_not_read_may_be_there_twice(class_folder):
    path = write_csv(class_folder, "note,image,label,Note,,\nx,apple/0.png,a,y,,,\n")
    assert CsvSource(path).classes == ("a",)
    doubled = write_csv(class_folder, "image,label,label\napple/0.png,a,b\n")
    assert len(CsvSource(doubled, labelled=False)) == 1


def test_csv_numbers_are_sorted_as_numbers(class_folder):
    rows = "".join(f"apple/{n}.png,{label}\n" for n, label in enumerate((10, 9, -1, 2)))
    assert CsvSource(write_csv(class_folder, "image,label\n" + rows)).classes == ("-1", "2", "9", "10")


def test_csv_with_split(class_folder):
    rows = ["apple/0.png,a,train", "pear/0.png,p,Train", "apple/1.png,a,valid", "pear/1.png,p,test"]
    path = write_csv(class_folder, "image,label,split\n" + "\n".join(rows))
    train, val = open_data(path)
    assert [Path(train.name(i)).name for i in range(2)] == ["0.png", "0.png"]
    assert val.labels.tolist() == [0, 1] and train.classes == val.classes == ("a", "p")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column image and label"),
        ("file,label\n", "lacks the column image; it has: file, label"),
        ("image,label\n", "lists no pictures"),
        ("image,label\n,a\n", "line 2: the image cell is empty"),
        ("image,label\napple/0.png,a\napple/1.png,\n", r"line 3: apple/1\.png has no label"),
        ("image,label\napple/0.png\n", r"line 2: apple/0\.png has no label"),
        (
            "image,label\napple/0.png,a\ngone.png,a\nlost/x.png,b\n",
            r"2 of 3 pictures do not exist: line 3: .*/gone\.png; line 4: .*/lost/x\.png",
        ),
        ("image,label\napple/0.png,a\napple/../apple/0.png,b\n", r"lines 2 and 3 list .* with two labels"),
        ("image,label,split\napple/0.png,a,train\napple/0.png,a,val\n", "in both splits"),
        ("image,label,split\napple/0.png,a,dev\n", "line 2: split is 'dev'; known are train"),
        ('image,label\n"apple/0.png,a\n', "not a proper CSV file"),
        ("image,label,label\napple/0.png,a,b\n", r"labels\.csv: the header has the column label twice"),
        ("image,Label ,label\napple/0.png,a,b\n", "has the column label twice"),
        ("image,label,p:a,P: a\napple/0.png,a,1,1\n", "has the column p:a twice"),
        ("image,label\napple/0.png,a\napple/1.png,a, or b\n", r"line 3: has more cells than the header; a comma"),
    ],
)
def test_csv_mistakes(class_folder, text, message):
    with pytest.raises(VitrailError, match=message):
        CsvSource(write_csv(class_folder, text))


def test_csv_with_probabilities(class_folder):
    rows = "apple/0.png,sweet,0.25,train,0.75\napple/1.png,sour,0.9,train,0.1\npear/0.png,sour,0.503,val,0.5\n"
    path = write_csv(class_folder, "image,label, p:sour ,split,P:sweet\n" + rows)
    train, val = open_data(path)
    assert train.classes == ("sour", "sweet")
    assert train.probabilities is not None and val.probabilities is not None
    assert train.probabilities.dtype == np.float32
    # In the order of the classes, whatever that of the columns.
    assert np.allclose(train.probabilities, [[0.25, 0.75], [0.9, 0.1]])
    # Rounded figures are made to add up; the label column stays what is evaluated.
    assert val.probabilities.sum() == pytest.approx(1) and val.labels.tolist() == [0]
    assert CsvSource(path, labelled=False).probabilities is None
    assert CsvSource(write_csv(class_folder, "image,label\napple/0.png,sweet\n")).probabilities is None


def test_csv_classes_that_differ_in_case_alone_have_columns_of_their_own(class_folder):
    path = write_csv(class_folder, "image,label,p:A,p:a\napple/0.png,A,0.7,0.3\napple/1.png,a,0.2,0.8\n")
    source = CsvSource(path)
    assert source.classes == ("A", "a")
    assert np.allclose(source.probabilities, [[0.7, 0.3], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("header", "values", "message"),
    [
        ("p:sour", "1", r"a column p:CLASS for every class .* not so for sweet"),
        ("p:sour,p:sweet,p:bitter", "0.5,0.5,0", "not so for bitter"),
        ("p:sour,p:sweet", "0.5,much", r"line 2: p:sweet is 'much', no number"),
        ("p:sour,p:sweet", "0.5,", r"line 2: p:sweet is '', no number"),
        ("p:sour,p:sweet", "0.5,0.6", r"line 2: the probabilities must be 0 or more and add up to 1"),
        ("p:sour,p:sweet", "-0.5,1.5", r"line 2: the probabilities must be"),
        ("p:sour,p:sweet", "nan,0.5", r"line 2: the probabilities must be"),
    ],
)
def test_csv_probability_mistakes(class_folder, header, values, message):
    path = write_csv(class_folder, f"image,label,{header}\napple/0.png,sweet,{values}\napple/1.png,sour,{values}\n")
    with pytest.raises(VitrailError, match=message):
        CsvSource(path)


def test_csv_that_cannot_be_read(tmp_path):
    with pytest.raises(VitrailError, match=r"labels\.csv: cannot be read: No such file"):
        CsvSource(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_bytes(b"image,label\n\xff\xfe,a\n")
    with pytest.raises(VitrailError, match="is not UTF-8 text"):
        CsvSource(tmp_path / "labels.csv")


def test_csv_names_at_most_ten_missing_files(tmp_path):
    path = write_csv(tmp_path, "image,label\n" + "".join(f"{n}.png,a\n" for n in range(25)))
    with pytest.raises(VitrailError, match=r"25 of 25 pictures .* line 11: .*9\.png; and 15 more"):
        CsvSource(path)
