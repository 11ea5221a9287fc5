"""The look of every figure, and how it becomes a PNG: matplotlib on its Agg canvas, without pyplot or a display.

No string of a dataset is ever drawn: labels appear as letters, which the page explains beside the picture.
"""

import io
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

ACCENT: Final = "#0f6f8c"
"""The candidate, in every figure."""
INK: Final = "#2a2e35"
MUTED: Final = "#8d939c"
GRID: Final = "#e4e7ea"
MODEL_COLOURS: Final = {"base": MUTED, "champion": INK, "candidate": ACCENT}
DPI: Final = 144
COLOURS: Final = 96


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure of so many inches with its axes, row by row, in the report's style."""
    made = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(made)
    grid = made.subplots(rows, columns, squeeze=False)
    axes: list[Axes] = [each for row in grid for each in row]
    for each in axes:
        styled(each)
    return made, axes


def styled(axes: Axes) -> None:
    """Two thin spines, a light grid, small grey ticks."""
    axes.set_facecolor("white")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.spines[["left", "bottom"]].set_linewidth(0.7)
    axes.tick_params(colors=INK, labelsize=7.5, width=0.7, length=3)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def titled(axes: Axes, title: str, x: str, y: str) -> None:
    """Title above the left end, and what the axes are, with units."""
    axes.set_title(title, loc="left", fontsize=8.5, color=INK, fontweight="bold", pad=6)
    axes.set_xlabel(x, fontsize=7.5, color=INK)
    axes.set_ylabel(y, fontsize=7.5, color=INK)


def legend(axes: Axes, **more: object) -> None:
    """A small legend without an edge, on a ground that lets little through."""
    look = {"facecolor": "white", "edgecolor": "none", "framealpha": 0.85, "fontsize": 7, "labelcolor": INK}
    options: dict[str, object] = {**look, "handlelength": 1.6, **more}
    axes.legend(**options)


def png(drawn: Figure) -> bytes:
    """The figure as PNG of COLOURS colours, a third of the size of one in true colour; equal figures, equal bytes."""
    whole, small = io.BytesIO(), io.BytesIO()
    drawn.savefig(whole, format="png", facecolor="white", metadata={"Software": None})
    Image.open(whole).convert("RGB").quantize(COLOURS).save(small, format="png", optimize=True)
    return small.getvalue()
