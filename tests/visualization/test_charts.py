import math

import pytest

from pe_spatial.visualization import charts
from pe_spatial.visualization.charts import Bar, Curve, Panel


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be written."""
    kept = []
    monkeypatch.setattr(charts, "save_figure", lambda path, figure, dpi=0: kept.append(figure))
    return kept


def test_lines_have_colors_that_are_seen_on_white_and_told_apart():
    for color in charts.LINE_COLORS:
        red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
        assert 0.299 * red + 0.587 * green + 0.114 * blue < 190
    assert len(set(charts.LINE_COLORS)) == len(charts._MARKERS)


def test_the_legend_of_a_diagram_lies_below_it_and_its_axes_are_named(figures, tmp_path):
    curves = [Curve(f"run {number}", [0, 5, 10], [1.0, math.nan, 0.1 * number]) for number in range(10)]
    panels = [Panel("loss", curves, "loss, no unit"), Panel("error", curves[:1], "m", names={0: "stem", 10: "head"})]
    charts.save_curves(tmp_path / "x.png", "", panels)
    figure = figures[0]
    figure.draw_without_rendering()
    first, second = figure.axes
    assert first.get_xlabel() == "iteration" and first.get_ylabel() == "loss, no unit"
    legend = first.get_legend()
    assert legend.get_title().get_text() == "and 2 more"
    assert legend.get_window_extent().y1 < first.get_window_extent().y0
    assert legend.get_window_extent().y1 <= first.xaxis.label.get_window_extent().y0 + 1
    assert all(float(tick).is_integer() for tick in first.get_xticks())
    assert [label.get_text() for label in second.get_xticklabels()] == ["stem", "head"]
    assert second.get_legend() is None


@pytest.mark.parametrize("longest", ["a", "conv1", "transformer.resblocks.3.attn.out_proj"])
def test_a_legend_lies_below_long_names_of_steps(longest, figures, tmp_path):
    curves = [Curve(name, [0, 1], [1e-6, 1e-7]) for name in ("onnxruntime", "openvino")]
    panel = Panel("drift", curves, steps="layers in their order", names={0: "conv1", 1: longest})
    charts.save_curves(tmp_path / "x.png", "", [panel], (8.5, 4.2))
    figures[0].draw_without_rendering()
    (axes,) = figures[0].axes
    gap = axes.xaxis.label.get_window_extent().y0 - axes.get_legend().get_window_extent().y1
    assert -1 <= gap < 40


def test_a_chosen_point_is_circled_with_its_value(figures, tmp_path):
    panel = Panel("layers", [Curve("a", [0, 1, 2], [0.1, 0.75, 0.3], 1)], "mIoU", steps="layer, counted from 0")
    charts.save_curves(tmp_path / "x.png", "", [panel])
    (axes,) = figures[0].axes
    assert [text.get_text() for text in axes.texts] == ["0.75"]
    assert axes.lines[1].get_xydata().tolist() == [[1, 0.75]]
    assert axes.get_xlabel() == "layer, counted from 0"


def test_bars_beyond_the_limit_are_gray_and_the_chosen_one_is_marked(figures, tmp_path):
    bars = [Bar("small", 3, "3 GB"), Bar("chosen", 8, chosen=True), Bar("large", 40)]
    charts.save_bars(tmp_path / "x.png", "Ways", "GB", bars, (12, "12 GB"))
    (axes,) = figures[0].axes
    colors = [patch.get_facecolor() for patch in axes.patches]
    assert len(set(colors)) == 3 and len({*colors[2][:3]}) == 1
    labels = axes.get_yticklabels()
    assert [label.get_text() for label in labels] == ["small", "chosen", "large"]
    assert [label.get_fontweight() for label in labels] == ["normal", "bold", "normal"]
    assert axes.get_xlabel() == "GB\ndashed line: 12 GB"
    charts.save_bars(tmp_path / "x.png", "Ways", "GB", bars[:1])
