import numpy as np
import pytest
import torch

from tests.explanations.test_figures import brightest_cell, picture, pixels_of, texts
from vitrail.contracts import VitrailError
from vitrail.explanations import Pair
from vitrail.explanations.features import (
    colour_rows,
    frame_grid,
    match_panel,
    position_grid,
    query_grid,
    similarity_panel,
)
from vitrail.explanations.figures import to_image


def test_every_picture_has_a_row_of_its_own_shape_beside_its_colours():
    colours = [torch.zeros(2, 4, 3), torch.zeros(6, 2, 3)]
    colours[0][1, 3] = torch.tensor([1.0, 0.0, 0.0])
    colours[1][5, 0] = torch.tensor([0.0, 1.0, 0.0])
    figure = colour_rows([picture(160, 80), picture(40, 120)], colours, "title")
    assert len(figure.axes) == 4
    for axes, ratio in zip(figure.axes, (2, 2, 1 / 3, 1 / 3), strict=True):
        box = axes.get_window_extent()
        assert box.width / box.height == pytest.approx(ratio, rel=0.02)
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
    assert pixels_of(figure, figure.axes[1])[-8, -8].tolist() == [255, 0, 0]
    assert pixels_of(figure, figure.axes[3])[-8, 8].tolist() == [0, 255, 0]
    with pytest.raises(VitrailError, match="1 pictures and 2 maps"):
        colour_rows([picture(8, 8)], colours)


def test_similarity_is_laid_over_the_picture_that_it_belongs_to():
    values = torch.full((4, 10), -0.5)
    values[3, 1] = 1.0
    figure = similarity_panel(picture(64, 64), values, (2, 2), picture(160, 64), (8, 8))
    left, right = figure.axes[:2]
    assert brightest_cell(pixels_of(figure, right), (4, 10)) == (3, 1)
    box = right.get_window_extent()
    assert box.width / box.height == pytest.approx(2.5, rel=0.02)
    framed = pixels_of(figure, left)
    cell = framed.shape[0] / 8
    assert framed[round(2.5 * cell), round(2 * cell) - 1 : round(2 * cell) + 2].min(axis=-1).max() > 200
    assert texts(figure) == ["≤ 0", "cosine similarity", "1"]


def test_matches_begin_and_end_in_their_patches():
    pairs = [Pair((0, 0), (3, 1), 0.9), Pair((1, 2), (0, 0), 0.8)]
    figure = match_panel(picture(60, 40), picture(20, 40), pairs, ((2, 3), (4, 2)))
    to_image(figure)
    ends = [[tuple(line.get_xydata()[0]) for line in axes.lines] for axes in figure.axes]
    assert ends == [[(10.0, 10.0), (50.0, 30.0)], [(15.0, 35.0), (5.0, 5.0)]]
    assert len(figure.artists) == 2
    match_panel(picture(60, 40), picture(20, 40), [], ((2, 3), (4, 2)))


def test_position_maps_stand_in_the_order_of_their_patches_and_large_grids_are_thinned():
    rows = torch.eye(12).reshape(3, 4, 3, 4) * 2 - 1
    figure = position_grid(rows)
    for number in range(12):
        panel = pixels_of(figure, figure.axes[number])
        height, width = panel.shape[0] / 3, panel.shape[1] / 4
        middle = panel[round((number // 4 + 0.5) * height), round((number % 4 + 0.5) * width)]
        assert middle[0] > 2 * middle[2]
    assert len(position_grid(torch.rand(20, 30, 20, 30)).axes) == 8 * 8 + 2


def test_frames_stand_above_their_maps_on_one_scale():
    maps = torch.zeros(3, 4, 4)
    maps[1, 2, 3] = 0.5
    figure = frame_grid([picture(48, 48)] * 3, maps)
    painted = figure.axes[3:6]
    assert brightest_cell(pixels_of(figure, painted[1]), (4, 4)) == (2, 3)
    quiet = pixels_of(figure, painted[0]).sum(-1).max()
    assert quiet < pixels_of(figure, painted[1]).sum(-1).max() / 2
    with pytest.raises(VitrailError, match="3 steps"):
        frame_grid([picture(8, 8)] * 2, maps)


def test_queries_are_labelled_and_boxes_and_points_lie_in_picture_pixels():
    maps = torch.zeros(4, 4, 10)
    for query in range(4):
        maps[query, 1, query] = 0.2
    boxes = torch.tensor([[10.0, 5.0, 50.0, 60.0]]).expand(4, 4)
    figure = query_grid(picture(160, 64), maps, ["a", "b", "$c", "d"], boxes, torch.tensor([[80.0, 32.0]]))
    shown = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in shown] == ["a", "b", "$c", "d"]
    box, point = shown[0].lines
    assert np.asarray(box.get_xydata()).min(axis=0).tolist() == [10.0, 5.0]
    assert np.asarray(point.get_xydata()).tolist() == [[80.0, 32.0]]
    assert to_image(figure).width > 500
