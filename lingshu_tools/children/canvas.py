"""What all pictures share: colours, a figure with its title block, a legend below it."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY, DARK = "#0072B2", "#D55E00", "#009E73", "#9a9a9a", "#222222"
"""Okabe and Ito's, which colour-blind readers tell apart."""
_MARGIN = 0.12  # inches


def figure_of(
    job: Mapping[str, Any], width: float, height: float, *, left: float, bottom: float
) -> tuple[Figure, Axes]:
    """Return a figure with a title block; margins are in inches, so that no size clips text."""
    figure = Figure(figsize=(width, height))
    axes = figure.subplots()
    figure.subplots_adjust(
        left=left / width,
        right=1 - 0.15 / width,
        bottom=bottom / height,
        top=1 - 0.62 / height,
    )
    write_line(figure, job["title"], 1 - 0.1 / height, va="top", fontsize=10, fontweight="bold")
    write_line(figure, job["subtitle"], 1 - 0.31 / height, va="top", fontsize=7.5, color="#555555")
    write_line(figure, job["footnote"], 0.06 / height, va="bottom", fontsize=6.5, color="#555555")
    return figure, axes


def write_line(figure: Figure, text: str, y: float, **style: Any) -> None:
    """Write a line over the figure's width, smaller where it would not fit."""
    width = figure.get_figwidth()
    artist = figure.text(_MARGIN / width, y, text, **style)
    width_px = (width - 2 * _MARGIN) * figure.dpi
    # Glyphs are up to 6 % wider at other resolutions.
    excess = 1.06 * artist.get_window_extent().width / width_px
    if excess > 1:
        artist.set_fontsize(style["fontsize"] / excess)


def add_legend(figure: Figure, keys: list[Any]) -> None:
    """Put a legend of two columns above the footnote."""
    width, height = figure.get_size_inches()
    figure.legend(
        handles=keys,
        loc="lower left",
        bbox_to_anchor=(0.06 / width, 0.2 / height),
        ncols=2,
        handlelength=1.6,
        columnspacing=1.6,
        labelspacing=0.35,
    )
