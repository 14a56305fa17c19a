import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.contracts import VitrailError
from vitrail.jobs.comparison import Comparison
from vitrail.jobs.report import FirstBatch, Headline, Mistake, RunSummary, write_report
from vitrail.jobs.report.confusion import draw_confusion, most_confused, shorten
from vitrail.jobs.report.curves import draw_curves, read_curves, running_mean
from vitrail.jobs.report.html import spoken
from vitrail.jobs.report.page import render
from vitrail.jobs.report.svg import VARIABLES, to_svg
from vitrail.metrics import ClassScores

EVIL = "<script>alert('1')</script>\"&$x_{1}$"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Balance of the tags, all ids, attributes and texts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.attributes, self.texts, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)

    def pictures(self):
        sources = [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]
        assert all(source.startswith("data:image/webp;base64,") for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))) for source in sources]


def metrics_csv(folder, rows=90):
    path = folder / "metrics.csv"
    lines = ["epoch,step,lr,loss,grad_norm,images_per_s,val_accuracy,val_loss"]
    for step in range(rows):
        held_out = f"{0.5 + 0.4 * step / rows},{1.0 - step / rows}" if step % 10 == 9 else ","
        lines.append(f"{step // 10 + 1},{step},{1e-4 * (1 - step / rows)},{2.0 - step / rows},1.0,20.0,{held_out}")
    path.write_text("\n".join(lines) + "\n")
    return path


def whole_run(folder):
    generator = torch.Generator().manual_seed(0)
    attention = torch.zeros(2, 4)
    attention[1, 2] = 0.7
    return RunSummary(
        title=f"A run {EVIL}",
        command=f"vitrail train 'my {EVIL} data' --epochs 3",
        config={"lr": 5e-5, "epochs": 3, "ema": None, "size": (224, 448), "flip": True, EVIL: EVIL},
        environment={"torch": "2.14.1", "device": EVIL},
        classes=("cat", EVIL, "dog"),
        headline=[Headline("Accuracy", "91.77 %", f"on 656 {EVIL}")],
        comparison=[
            Comparison("This run", 91.77, "here", ours=True),
            Comparison("CNN", 88.42, f"Deitsch {EVIL} 2019"),
            Comparison("SVM", 82.44),
        ],
        metrics=metrics_csv(folder),
        confusion=np.array([[1163, 42, 0], [19, 432, 7], [0, 3, 88]]),
        per_class=[ClassScores("cat", 0.8951, 0.7952, 0.8423, 1205), ClassScores(EVIL, float("nan"), 0.0, 0.0, 458)],
        first_batch=FirstBatch(
            torch.randn(40, 3, 24, 32, generator=generator), [f"{EVIL} {i}" for i in range(40)], MEAN, STD
        ),
        mistakes=[
            Mistake(Image.new("RGB", (96, 48), (90, 90, 90)), attention, "cat", EVIL, 0.9731, f"a/{EVIL}.png"),
            Mistake(Image.new("L", (60, 60)), None, "dog", "cat", 0.5, "b.png"),
        ],
        warnings=[f"{EVIL}: skipped", *(f"file {i}: skipped" for i in range(9))],
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run):
    return Page(render(run))


def test_tags_balance_and_ids_are_unique(page):
    assert len(page.ids) == len(set(page.ids)) > 10
    assert page.tags.count("section") == 8


def test_nothing_is_loaded_and_nothing_runs(run, page):
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "action", "poster", "srcset"):
            assert value.startswith(("data:", "#")), (tag, name, value)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    text = render(run)
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert all(address.startswith("#") for address in re.findall(r"url\(([^)]*)\)", text))
    policy = [value for tag, name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_references_inside_the_figures_find_their_target(run, page):
    text = render(run)
    wanted = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    assert wanted
    assert wanted <= set(page.ids)


def test_names_of_the_user_are_text(run, page):
    assert "<script" not in render(run)
    for place in (run.title, run.command, *run.warnings[:1], f"a/{EVIL}.png", run.comparison[1].source):
        assert place in page.text
    # In the figures too, where matplotlib would take dollars for mathematics.
    assert page.text.count(shorten(EVIL)) >= 2


def test_the_numbers_given_are_on_the_page(page):
    for number in (
        "91.77 %",
        "91.77",
        "88.42",
        "82.44",
        "1,163",
        "432",
        "89.5",
        "79.5",
        "84.2",
        "97.3 % sure",
        "1,205",
    ):
        assert number in page.text
    widths = [value for tag, name, value in page.attributes if (tag, name) == ("span", "style") and "width" in value]
    assert widths == ["width: 91.770%", "width: 88.420%", "width: 82.440%"]
    assert "1,683 of 1,754 right" in page.text
    assert "5e-5" in page.text
    assert "224, 448" in page.text
    assert "10 warnings" in page.text
    assert "and 4 more" in page.text


def test_mistakes_show_picture_and_map_side_by_side(page):
    wide, plain = page.pictures()[:2]
    # Two panels of 2 : 1 with a gap of 16 pixels and no margin.
    assert (wide.width - 16) / 2 / wide.height == pytest.approx(2.0, rel=0.01)
    pixels = np.asarray(wide.convert("RGBA")).astype(int)
    left, right = pixels[:, : (wide.width - 16) // 2], pixels[:, (wide.width + 16) // 2 :]
    assert np.abs(left[..., :3] - 90).max() <= 6
    cells = [
        right[round((r + 0.5) * right.shape[0] / 2), round((c + 0.5) * right.shape[1] / 4)][:3].sum()
        for r in range(2)
        for c in range(4)
    ]
    assert int(np.argmax(cells)) == 1 * 4 + 2
    assert pixels[wide.height // 2, wide.width // 2, 3] == 0
    assert plain.size == (60, 60)


def test_the_first_batch_is_denormalised_and_shown_whole(run, page):
    shown = page.pictures()[2:]
    assert len(shown) == 40
    assert all(f"{EVIL} {number}" in page.text for number in range(40))
    assert run.first_batch is not None
    flat = torch.full((1, 3, 24, 32), 0.5)
    normalised = (flat - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    small = RunSummary("t", "", first_batch=FirstBatch(normalised, ["grey"], MEAN, STD))
    (picture,) = Page(render(small)).pictures()
    assert picture.size == (32, 24)
    assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - 128).max() <= 2


def test_parts_that_are_not_given_leave_no_section():
    page = Page(render(RunSummary("Only a title", "vitrail train x")))
    assert page.tags.count("section") == 1
    assert "Only a title" in page.text
    assert "vitrail train x" in page.text
    assert not {"img", "table", "aside"} & set(page.tags)


def test_a_report_is_written_whole_replaces_the_old_one_and_is_the_same_twice(run, tmp_path):
    path = write_report(run, tmp_path / "new")
    first = path.read_bytes()
    assert path == tmp_path / "new" / "report.html"
    assert write_report(run, tmp_path / "new").read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_file_names_that_are_no_text_do_not_stop_the_report(tmp_path):
    path = write_report(RunSummary("t", "", warnings=["cell\udcff.png: skipped"]), tmp_path)
    assert "cell?.png: skipped" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confusion": np.eye(2, dtype=int)}, r"3 classes .*\(2, 2\)"),
        ({"first_batch": FirstBatch(torch.zeros(2, 3, 4, 4), ["one"], MEAN, STD)}, "2 pictures but 1 labels"),
    ],
)
def test_parts_that_do_not_fit_are_refused(run, change, message):
    with pytest.raises(VitrailError, match=message):
        replace(run, **change)


def test_curves_take_the_rows_that_have_a_number(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,loss,val_accuracy\n1,10,2.5,\n1,20,nan,0.5\n2,30,1.5,0.75\n")
    axis, curves = read_curves(path)
    assert axis == "step"
    assert [values.tolist() for values in curves["loss"]] == [[10, 30], [2.5, 1.5]]
    assert [values.tolist() for values in curves["val_accuracy"]] == [[20, 30], [0.5, 0.75]]
    figures = draw_curves(path)
    assert list(figures) == ["Loss", "Held-out score"]
    for figure in figures.values():
        assert figure.axes[0].get_xlim() == pytest.approx((-0.9, 31.5))
    assert [text.get_text() for text in figures["Held-out score"].axes[0].texts] == ["0.75"]


def test_every_column_finds_its_figure(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,lr,loss,koleo,grad_norm,val_loss,val_accuracy,val_f1\n1,0.1,3,1,9,2,0.5,0.4\n2,0.2,2,1,9,1,0.6,0.5\n"
    )
    figures = draw_curves(path)
    legends = {
        title: [text.get_text() for text in legend.get_texts()] if (legend := figure.axes[0].get_legend()) else []
        for title, figure in figures.items()
    }
    assert legends == {
        "Loss": ["loss", "koleo", "loss, held out"],
        "Held-out score": ["accuracy", "f1"],
        "Learning rate": [],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [("a,b\n1,2\n", "neither a column 'step' nor 'epoch'"), ("step,loss\n1,0.5\n2,much\n", "line 3: loss is 'much'")],
)
def test_a_file_that_holds_no_curves_is_named(tmp_path, content, message):
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    with pytest.raises(VitrailError, match=rf"metrics\.csv.*{message}"):
        draw_curves(path)


def test_missing_and_empty_curves(tmp_path):
    with pytest.raises(VitrailError, match=r"gone\.csv cannot be read"):
        draw_curves(tmp_path / "gone.csv")
    (tmp_path / "metrics.csv").write_text("step,loss\n")
    assert draw_curves(tmp_path / "metrics.csv") == {}


def test_running_mean_keeps_a_line_and_the_ends():
    line = np.arange(10.0)
    np.testing.assert_allclose(running_mean(line, 5), line)
    np.testing.assert_allclose(running_mean(np.array([0.0, 3.0, 0.0, 3.0, 0.0]), 3), [0, 1, 2, 1, 0])


def test_confusion_rows_are_true_classes_and_shades_are_shares():
    figure = draw_confusion(np.array([[8, 2], [0, 4]]), ("cat", "dog"))
    axes = figure.axes[0]
    cells = {patch.get_xy(): patch.get_alpha() for patch in axes.patches[1:]}
    assert cells == pytest.approx({(0.0, 0.0): 0.06 + 0.94 * 0.8, (1.0, 0.0): 0.06 + 0.94 * 0.2, (1.0, 1.0): 1.0})
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places["8"] == (0.5, 0.5)
    assert places["2"] == (1.5, 0.5)
    assert places["0"] == (0.5, 1.5)
    assert axes.get_ylim() == (2, 0)
    names = [(text.get_text(), *text.get_position()) for text in axes.texts if text.get_text() in ("cat", "dog")]
    assert [(name, y) for name, x, y in names if x < 0] == [("cat", 0.5), ("dog", 1.5)]
    assert [(name, x) for name, x, y in names if y < 0] == [("cat", 0.5), ("dog", 1.5)]


def test_a_confusion_matrix_of_many_classes_is_one_image():
    figure = draw_confusion(np.eye(300, dtype=int), [f"class {i}" for i in range(300)])
    axes = figure.axes[0]
    assert len(axes.patches) == 1
    assert len(axes.texts) == 0
    pixels = np.asarray(axes.images[0].get_array())
    assert np.array_equal(pixels[..., 3], np.eye(300))
    assert len(to_svg(figure, "many", "matrix")) < 100_000


def test_most_confused_lists_errors_only_most_first():
    confusion = np.array([[5, 3, 0], [1, 9, 0], [0, 0, 0]])
    assert most_confused(confusion, ("a", "b", "c")) == [("a", "b", 3, 0.375), ("b", "a", 1, 0.1)]
    assert confusion[0, 0] == 5


def test_figures_take_their_colours_from_the_page(run):
    assert run.confusion is not None
    svg = to_svg(draw_confusion(run.confusion, run.classes), "one", EVIL)
    assert not any(colour in svg for colour in VARIABLES)
    assert {"var(--ink)", "var(--accent)", "var(--on-accent)", "var(--muted)"} <= set(
        re.findall(r"var\(--[a-z-]+\)", svg)
    )
    assert "<style" not in svg
    assert "metadata" not in svg
    assert "<script" not in svg


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (True, "yes"),
        (5e-5, "5e-5"),
        (0.05, "0.05"),
        (1e10, "1e+10"),
        ((), "–"),
        ({"a": 1.0}, "a=1"),
        ("x", "x"),
    ],
)
def test_settings_are_spoken_as_a_person_writes_them(value, said):
    assert spoken(value) == said


@pytest.mark.parametrize(
    ("seconds", "epochs", "said"),
    [
        (0.4, 1, ("0 s", "1 epoch, 1,000 pictures")),
        (59.4, 2, ("59 s", "2 epochs, 1,000 pictures")),
        (59.6, 2, ("1.0 min", "2 epochs, 1,000 pictures")),
        (600, 2, ("10.0 min", "2 epochs, 1,000 pictures")),
    ],
)
def test_times_below_a_minute_are_in_seconds(seconds, epochs, said):
    headline = Headline.time(seconds, epochs, 1000)
    assert (headline.label, headline.value, headline.note) == ("Time", *said)


def test_long_names_are_cut_in_the_middle():
    assert shorten("a" * 15 + "b" * 15, 11) == "aaaaa…bbbbb"
    assert shorten("x" * 22) == "x" * 22
