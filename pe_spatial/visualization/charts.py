"""Charts as PNG files: curves, bars and confusion matrices. The one door to matplotlib, which is imported late.

The ground is white, so that a chart reads the same on a light and on a dark page. Legends lie below their diagram.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# of Okabe and Ito, which color-blind people tell apart, without the yellow, which nobody sees on white
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"  # one for each color, where a curve has few points
_STROKES = ("-", "--", ":", "-.")
_DPI = 110
_PANEL = (5.4, 4.0)  # inches
_MOST_LINES = 8
_STYLE: Any = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}


@dataclass(frozen=True)
class Curve:
    """One line of a panel: values [N] over iterations or other steps [N]; values that are not finite are gaps.

    The point with the number `circled` gets a circle, and its value is written beside it.
    """

    label: str
    iterations: Sequence[int]
    values: Sequence[float]
    circled: int | None = None


@dataclass(frozen=True)
class Panel:
    """One diagram.

    Args:
        title: What is shown.
        curves: The lines; more than 8 are cut, which the diagram says.
        unit: Of the values.
        marks: Iterations that get a vertical line, with what they are.
        logarithmic: Whether the values are shown in powers of ten.
        steps: What the curves run over.
        names: Of some of the steps, in place of their numbers.
    """

    title: str
    curves: Sequence[Curve]
    unit: str = ""
    marks: Mapping[int, str] | None = None
    logarithmic: bool = False
    steps: str = "iteration"
    names: Mapping[int, str] | None = None


def new_figure(columns: int = 1, rows: int = 1, panel: tuple[float, float] = _PANEL) -> tuple[Figure, list[Axes]]:
    """A figure and its diagrams, row by row. It needs no display."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), layout="constrained")
        return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save_figure(path: Path, figure: Figure, dpi: int = _DPI) -> None:
    """Write a figure as PNG, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, dpi=dpi, format="png", facecolor="white", bbox_inches="tight")  # no label is cut off
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content.getbuffer()))


# --- curves -----------------------------------------------------------------------------------------------------------
def save_curves(path: Path, title: str, panels: Sequence[Panel], panel: tuple[float, float] = _PANEL) -> None:
    """Write diagrams, three in a row, into one picture.

    Args:
        path: A PNG file.
        title: Of the whole; may be empty.
        panels: At least one.
        panel: (width, height) of a diagram in inches.
    """
    columns = min(len(panels), 3)
    figure, axes = new_figure(columns, -(-len(panels) // columns), panel)
    if title:
        figure.suptitle(title)
    for place, shown in zip(axes, panels, strict=False):
        _draw_panel(place, shown)
    for place in axes[len(panels) :]:
        place.set_axis_off()
    save_figure(path, figure)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    for number, curve in enumerate(panel.curves[:_MOST_LINES]):
        _draw_curve(axes, number, curve)
    if panel.logarithmic:
        axes.set_yscale("log")
    axes.margins(y=0.12)
    axes.locator_params(axis="x", integer=True)
    if panel.names:
        axes.set_xticks(list(panel.names), list(panel.names.values()), rotation=25, ha="right", fontsize=9)
    for iteration, text in (panel.marks or {}).items():
        axes.axvline(iteration, color="#777777", linestyle=":", linewidth=1.2, zorder=0)
        axes.annotate(
            text,
            xy=(iteration, 0),
            xytext=(-4, 4),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            ha="right",
            color="#555555",
            fontsize=9,
        )
    axes.set_title(panel.title)
    axes.set_xlabel(panel.steps)
    axes.set_ylabel(panel.unit)
    axes.grid(alpha=0.25)
    _draw_legend(axes, panel)


def _draw_curve(axes: Axes, number: int, curve: Curve) -> None:
    kind = number % len(LINE_COLORS)
    style: dict[str, Any] = {
        "color": LINE_COLORS[kind],
        "linestyle": _STROKES[number // len(LINE_COLORS) % len(_STROKES)],
        "marker": _MARKERS[kind] if len(curve.values) <= 12 else None,
    }
    values = [value if math.isfinite(value) else math.nan for value in curve.values]
    axes.plot(curve.iterations, values, label=curve.label, markersize=5, **style)
    if curve.circled is not None:
        place = (curve.iterations[curve.circled], values[curve.circled])
        axes.plot(*place, "o", color=LINE_COLORS[kind], fillstyle="none", markersize=12)
        axes.annotate(f"{place[1]:.4g}", place, (0, 10), textcoords="offset points", ha="center", fontsize=9)


def _draw_legend(axes: Axes, panel: Panel) -> None:
    left_out = len(panel.curves) - _MOST_LINES
    if len(panel.curves) > 1:
        title = f"and {left_out} more" if left_out > 0 else None
        from matplotlib.transforms import offset_copy

        # below the names of the steps, which are slanted, and that of the axis, whatever the size
        points = -38 - 2.2 * max(map(len, (panel.names or {}).values()), default=0)
        figure: Any = axes.get_figure()
        below = offset_copy(axes.transAxes, figure, y=points, units="points")
        place: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": below}
        axes.legend(**place, ncols=2, fontsize=9, frameon=False, title=title)


# --- bars -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Bar:
    """One bar: its name, its length, what is written behind it, and whether it is the chosen one."""

    name: str
    value: float
    text: str = ""
    chosen: bool = False


def save_bars(path: Path, title: str, unit: str, bars: Sequence[Bar], limit: tuple[float, str] | None = None) -> None:
    """Write horizontal bars, the first above; those beyond a limit are gray.

    Args:
        path: A PNG file.
        title: Of the diagram.
        unit: Of the values.
        bars: At least one.
        limit: A value that gets a line, and what it is.
    """
    figure, (axes,) = new_figure(panel=(8.5, 1.6 + 0.3 * len(bars)))
    most = math.inf if limit is None else limit[0]
    for place, bar in enumerate(bars):
        color = "#BBBBBB" if bar.value > most else LINE_COLORS[1 if bar.chosen else 0]
        axes.barh(place, bar.value, color=color, height=0.7)
        style: Any = {"fontsize": 9, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}}
        axes.annotate(bar.text, (bar.value, place), (4, 0), textcoords="offset points", va="center", **style)
    axes.set_yticks(range(len(bars)), [_short(bar.name, 48) for bar in bars], fontsize=9)
    for label, bar in zip(axes.get_yticklabels(), bars, strict=True):
        label.set_fontweight("bold" if bar.chosen else "normal")
    axes.invert_yaxis()
    axes.margins(x=0.18, y=0.02)
    axes.set(title=title, xlabel=unit)
    axes.grid(axis="x", alpha=0.25)
    if limit is not None:
        axes.axvline(limit[0], color="#333333", linestyle="--", linewidth=1.2)
        axes.set_xlabel(f"{unit}\ndashed line: {limit[1]}")
    save_figure(path, figure)


# --- confusion --------------------------------------------------------------------------------------------------------
def save_confusion(
    path: Path, shares: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], rule: str
) -> None:
    """Write a confusion matrix whose rows are true classes.

    Args:
        path: A PNG file.
        shares: [R, C], of the row, 0…1.
        rows: Names.
        columns: Names.
        rule: How truth and prediction were matched, below the matrix.
    """
    from textwrap import fill

    size = max(0.42 * len(rows), 2.2)
    longest = max(map(len, [*rows, *columns]))
    figure, (axes,) = new_figure(panel=(size + 2.2 + 0.09 * longest, size + 1.9 + 0.06 * longest))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    font = 10 if len(rows) <= 16 else 8
    axes.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=45, ha="right", fontsize=font + 1)
    axes.set_yticks(range(len(rows)), [_short(name) for name in rows], fontsize=font + 1)
    for i, j in np.argwhere(shares >= 0.005):
        share = float(shares[i, j])
        color = "white" if share > 0.55 else "black"
        axes.text(int(j), int(i), f"{100 * share:.0f}", ha="center", va="center", fontsize=font - 1, color=color)
    axes.set_xlabel(fill(f"predicted.  In % of each row: {rule}.", 70), fontsize=font)
    axes.set_ylabel("true")
    axes.set_xticks(np.arange(len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows)) - 0.5, minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, format=lambda share, _: f"{100 * share:.0f} %")
    save_figure(path, figure)


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
