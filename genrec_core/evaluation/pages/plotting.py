"""How plots look: one style, drawn without a display, as PNG bytes that depend only on the data."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAIN, GREY, INK, GRID = "#2563eb", "#94a3b8", "#1e293b", "#e2e8f0"
# Readers who see few colours can tell these apart; the last one is for "all others".
PALETTE = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#84cc16", GREY)
_DPI = 110


def new_figure(columns: int, size: tuple[float, float]) -> tuple["Figure", "list[Axes]"]:
    """A figure and its axes from left to right.

    Args:
        columns: plots side by side.
        size: width and height in inches; Dagster cuts off what is wider than 10.4.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    row = figure.subplots(1, columns, squeeze=False)[0]
    for axes in row:
        axes.grid(axis="y", color=GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8, length=0)
    return figure, list(row)


def labelled(axes: "Axes", title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.set_xlabel(x, color=INK, fontsize=9)
    axes.set_ylabel(y, color=INK, fontsize=9)


def as_png(figure: "Figure") -> bytes:
    """The figure drawn with Agg, without a date or version inside."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
