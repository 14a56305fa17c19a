import sys

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.contracts import VitrailError
from vitrail.explanations.features import colour_rows
from vitrail.explanations.figures import (
    head_grid,
    layer_head_grid,
    save,
    to_image,
    two_panel,
)


def pixels_of(figure, axes):
    """What was drawn inside a panel."""
    image = np.asarray(to_image(figure).convert("RGB")).astype(int)
    box = axes.get_window_extent()
    top, bottom = round(image.shape[0] - box.y1), round(image.shape[0] - box.y0)
    return image[top:bottom, round(box.x0) : round(box.x1)]


def brightest_cell(panel, grid):
    """Row and column of the patch whose middle is brightest."""
    height, width = panel.shape[0] / grid[0], panel.shape[1] / grid[1]
    levels = [
        [panel[round((row + 0.5) * height), round((column + 0.5) * width)].sum() for column in range(grid[1])]
        for row in range(grid[0])
    ]
    return divmod(int(np.argmax(levels)), grid[1])


def picture(width, height):
    """Left half red, right half blue: nothing that could be mistaken for grid lines."""
    image = Image.new("RGB", (width, height), (180, 40, 40))
    image.paste((40, 40, 180), (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize(("width", "height", "grid"), [(96, 96, (6, 6)), (160, 64, (4, 10)), (64, 160, (10, 4))])
def test_panels_have_the_shape_of_the_picture(width, height, grid):
    figure = two_panel(picture(width, height), torch.rand(grid), title="title")
    for axes in figure.axes[:2]:
        box = axes.get_window_extent()
        assert box.width / box.height == pytest.approx(width / height, rel=0.01)
    red, blue = pixels_of(figure, figure.axes[0])[20, [20, -20]]
    assert abs(red - [180, 40, 40]).max() <= 2
    assert abs(blue - [40, 40, 180]).max() <= 2


@pytest.mark.parametrize(("width", "height", "grid"), [(160, 64, (4, 10)), (64, 160, (10, 4))])
def test_grid_lines_stand_at_the_patch_borders_and_nowhere_else(width, height, grid):
    figure = two_panel(picture(width, height).convert("L").point(lambda _: 0), torch.zeros(grid))
    panel = pixels_of(figure, figure.axes[1]).sum(-1)
    rows, columns = grid
    for lines, count, length in ((panel.mean(0), columns, panel.shape[1]), (panel.mean(1), rows, panel.shape[0])):
        level = np.median(lines)
        bright = np.flatnonzero(lines > level + 10)
        groups = np.split(bright, np.flatnonzero(np.diff(bright) > 1) + 1)
        centres = [group.mean() + 0.5 for group in groups]
        expected = [length * i / count for i in range(1, count)]
        assert len(centres) == count - 1
        assert np.abs(np.array(centres) - expected).max() < 1.5


def test_the_overlay_is_brightest_where_the_map_is_and_the_plain_panel_is_untouched():
    values = torch.zeros(4, 10)
    values[2, 7] = 0.3
    figure = two_panel(picture(160, 64), values)
    assert brightest_cell(pixels_of(figure, figure.axes[1]), (4, 10)) == (2, 7)
    assert np.ptp(pixels_of(figure, figure.axes[0])[5:-5, 5:100].sum(-1)) <= 3


def test_the_asked_patch_is_framed_in_both_panels():
    figure = two_panel(picture(160, 64), torch.zeros(4, 10), patch=(1, 6))
    for axes in figure.axes[:2]:
        panel = pixels_of(figure, axes)
        height, width = panel.shape[0] / 4, panel.shape[1] / 10
        edge = panel[round(1.5 * height), round(6 * width) - 1 : round(6 * width) + 2]
        assert edge.min(axis=-1).max() > 200
        assert panel[round(1.5 * height), round(3.5 * width)].min() < 200


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_the_legend_says_what_the_brightest_colour_means():
    figure = two_panel(picture(96, 96), torch.full((6, 6), 0.02), legend="attention per patch")
    assert texts(figure) == ["0", "attention per patch", "2 %"]
    values = torch.zeros(20, 20)
    values[0, 0] = 0.4
    assert texts(two_panel(picture(96, 96), values))[-1] == "≥ 10 %"
    assert texts(two_panel(picture(96, 96), values, legend="")) == []


def test_a_title_with_dollars_and_braces_is_shown_as_it_is(tmp_path):
    figure = two_panel(picture(96, 96), torch.rand(6, 6), title=r"cell_$x_{1}$ \frac")
    assert r"cell_$x_{1}$ \frac" in texts(figure)
    save(figure, tmp_path / "title.png")


def test_a_title_that_is_too_wide_is_cut_in_its_middle():
    figure = two_panel(picture(64, 160), torch.rand(10, 4), title="begin " + "x" * 300 + " end")
    (title,) = [text for text in figure.texts if "…" in text.get_text()]
    assert title.get_text().startswith("begin x")
    assert title.get_text().endswith("x end")
    extent = title.get_window_extent()
    assert 0.8 * figure.bbox.width < extent.x1 <= figure.bbox.width


def test_head_grid_has_one_overlay_per_head_on_its_own_scale():
    maps = torch.zeros(6, 4, 10)
    for head in range(6):
        maps[head, 1, head] = 10.0**-head
    figure = head_grid(picture(160, 64), maps, title="heads")
    shown = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in shown] == [f"head {i}" for i in range(6)]
    for head, axes in enumerate(shown):
        assert brightest_cell(pixels_of(figure, axes), (4, 10)) == (1, head)


def test_layer_head_grid_puts_layers_in_rows_and_heads_in_columns():
    maps = torch.zeros(2, 3, 4, 8)
    for layer in range(2):
        for head in range(3):
            maps[layer, head, layer, head] = 1.0
    figure = layer_head_grid(maps, layers=(3, 7))
    assert len(figure.axes) == 6
    assert [a.get_title() for a in figure.axes[:3]] == ["head 0", "head 1", "head 2"]
    assert [figure.axes[i].texts[0].get_text() for i in (0, 3)] == ["layer 3", "layer 7"]
    for number, axes in enumerate(figure.axes):
        assert brightest_cell(pixels_of(figure, axes), (4, 8)) == divmod(number, 3)


def test_colour_rows_show_each_patch_in_its_colour():
    colours = torch.zeros(2, 4, 3)
    colours[1, 3] = torch.tensor([1.0, 0.5, 0.0])
    figure = colour_rows([picture(160, 80)], [colours])
    panel = pixels_of(figure, figure.axes[1])
    assert panel[-10, -10].tolist() == [255, 128, 0]
    assert panel[10, 10].tolist() == [0, 0, 0]


def test_the_folder_of_a_saved_file_is_made(tmp_path):
    figure = two_panel(picture(96, 64), torch.rand(4, 6))
    path = save(figure, tmp_path / "new" / "folder" / "map.png", dpi=100)
    assert Image.open(path).size == to_image(figure, dpi=100).size


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(VitrailError, match=r"map\.docx"):
        save(two_panel(picture(96, 96), torch.rand(6, 6)), tmp_path / "map.docx")


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VitrailError, match=r"map\.png: the figure cannot be written"):
        save(two_panel(picture(96, 96), torch.rand(6, 6)), tmp_path / "file" / "map.png")


def test_a_picture_of_one_row_of_patches_stays_drawable():
    figure = two_panel(picture(1600, 8), torch.rand(1, 200))
    assert max(figure.get_size_inches()) < 20
    assert to_image(figure, dpi=100).width > 1000


def test_clear_background_and_no_pyplot(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    figure = two_panel(picture(96, 96), torch.rand(6, 6), legend="")
    image = to_image(figure, background=None)
    alpha = np.asarray(image)[:, :, 3]
    assert (alpha[:, : image.width // 2 - 10] == 255).all()
    assert (alpha[:, image.width // 2 - 6 : image.width // 2 + 6] == 0).all()
    assert np.asarray(to_image(figure))[:, image.width // 2].min() == 255
