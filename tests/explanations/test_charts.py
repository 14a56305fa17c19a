import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from vitrail.contracts import VitrailError
from vitrail.explanations import LayerReach
from vitrail.explanations.charts import ChartColours, norm_chart, reach_chart
from vitrail.explanations.figures import save, to_image


def some_reach():
    return [LayerReach(n, torch.tensor([[10.0 * n, 5.0]]), torch.tensor([[float(n), 2.0]])) for n in range(3)]


def points_of(axes):
    return {round(float(y), 4) for line in axes.lines if line.get_marker() == "o" for y in line.get_ydata()}


def test_every_head_has_a_point_in_its_layer_and_the_line_is_their_mean():
    left, right = reach_chart(some_reach(), (30, 40)).axes[:2]
    assert points_of(left) == {0.0, 10.0, 20.0, 5.0}
    assert points_of(right) == {0.0, 1.0, 2.0}
    for layer, line in enumerate(line for line in left.lines if line.get_marker() == "o"):
        assert np.abs(np.asarray(line.get_xdata()) - layer).max() < 0.5
    (mean,) = [line for line in left.lines if line.get_marker() != "o"]
    assert list(mean.get_ydata()) == [2.5, 7.5, 12.5]


def test_the_second_axis_is_in_shares_of_the_diagonal():
    figure = reach_chart(some_reach(), (30, 40))
    to_image(figure)
    (share,) = figure.axes[0].child_axes
    assert share.get_ylim()[1] == pytest.approx(figure.axes[0].get_ylim()[1] / 50 * 100)


def test_no_layers_cannot_be_drawn():
    with pytest.raises(VitrailError, match="no layers"):
        reach_chart([])


def heights(axes, colour):
    return sum(bar.get_height() for bar in axes.patches if to_hex(bar.get_facecolor()) == colour)


def test_norms_are_counted_once_with_outliers_in_another_colour(tmp_path):
    norms = torch.cat([torch.tensor([7.0, 3.0, 3.5]), torch.linspace(10, 12, 50), torch.tensor([90.0, 95.0])])
    marked = norms > 50
    colours = ChartColours()
    figure = norm_chart(norms, marked, prefix=3, limit=40.0)
    (axes,) = figure.axes
    assert heights(axes, colours.accent) == 50
    assert heights(axes, colours.second) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "50 patches",
        "2 outliers",
        "class token",
        "registers",
    ]
    assert save(figure, tmp_path / "norms.png").stat().st_size > 1000


def test_registers_alone_are_named_as_such():
    figure = norm_chart(torch.rand(9), torch.zeros(9, dtype=torch.bool), prefix=4, class_token=False)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["5 patches", "registers"]


def test_norms_without_outliers_or_spread_are_drawn():
    figure = norm_chart(torch.full((5,), 2.0), torch.zeros(5, dtype=torch.bool), prefix=1)
    assert heights(figure.axes[0], ChartColours().accent) == 4
    to_image(figure)
