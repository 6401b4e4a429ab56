"""Point labels that do not collide: each is put at the first free place around its point.

A label covers no point, no other label and no leader line, and its own line crosses no label; one
that finds no such place is left out, and who drew says how many.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_RADII = (8, 13, 19, 27, 37)  # points
_ANGLES = np.deg2rad([20, 160, -20, -160, 60, 120, -60, -120, 90, -90, 0, 180])
_PAD = 2.0  # pixels of air around a label
_DOT = 4.0  # half the side of the square a point keeps free, pixels
_ON_A_LINE = np.linspace(0.15, 1, 12)[:, None]
_ARROW = {"arrowstyle": "-", "lw": 0.4, "color": "#777777", "shrinkA": 0, "shrinkB": 2}


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    others: Floats,
    size: float = 8,
    color: str = "#222222",
) -> list[str]:
    """Label points in the order given and return the texts that found no free place.

    Args:
        axes: with final limits; nothing may be moved afterwards.
        points: data coordinates.
        texts: one for each point.
        others: data coordinates [n, 2] that no label may cover, the labelled points among them.
        size: of the text, in points.
        color: of the text.
    """
    figure = cast("Figure", axes.figure)
    finite = others[np.isfinite(others).all(axis=1)]
    inside = np.asarray(axes.get_window_extent().extents, dtype=np.float64)
    placement = _Placement(axes.transData.transform(finite), inside, figure.dpi / 72)
    left: list[str] = []
    for point, text, side in zip(points, texts, _sizes(figure, texts, size), strict=True):
        offset = placement.take(axes.transData.transform(point), side)
        if offset is None:
            left.append(text)
            continue
        style: dict[str, Any] = {
            "fontsize": size,
            "fontstyle": "italic",
            "color": color,
            "zorder": 5,
        }
        axes.annotate(text, point, xytext=offset, textcoords="offset points", ha="center",
                      va="center", arrowprops={**_ARROW, "relpos": (0.5, 0.5)},
                      bbox={"boxstyle": "square,pad=0.05", "fc": "white", "ec": "none"},
                      **style)  # fmt: skip
    return left


class _Placement:
    """What is taken of the axes, as boxes x0, y0, x1, y1 in pixels."""

    def __init__(self, points: Floats, inside: Floats, scale: float) -> None:
        self._points = points
        self._taken = _squares(points, _DOT)
        self._labels = np.empty((0, 4))
        self._inside = inside
        self._scale = scale

    def take(self, pixel: Floats, side: tuple[float, float]) -> tuple[float, float] | None:
        """Return the offset in points of a free place for a label's middle, and take it."""
        half = np.array(side) / 2 + _PAD
        for step in _steps():
            middle = pixel + step * self._scale
            # A label beside its point touches the circle with its near edge, not its middle.
            middle[0] += np.sign(round(step[0])) * side[0] / 2
            box = np.concatenate([middle - half, middle + half])
            line = pixel + (middle - pixel) * _ON_A_LINE
            if self._is_free(box, line) and not self._crosses(pixel, line):
                outside = line[~_covers(box[None], line)]
                self._labels = np.vstack([self._labels, box])
                self._taken = np.vstack([self._taken, box, _squares(outside, 1.0)])
                return tuple((middle - pixel) / self._scale)
        return None

    def _is_free(self, box: Floats, line: Floats) -> bool:
        within = (box[:2] >= self._inside[:2]).all() and (box[2:] <= self._inside[2:]).all()
        apart = (self._taken[:, :2] >= box[2:]) | (self._taken[:, 2:] <= box[:2])
        return bool(within and apart.any(axis=1).all() and not _covers(self._labels, line).any())

    def _crosses(self, pixel: Floats, line: Floats) -> bool:
        """Return whether a leader line passes over a point other than its own."""
        others = self._points[np.abs(self._points - pixel).max(axis=1) > _DOT]
        return bool(_covers(_squares(others, _DOT / 2), line).any())


def _covers(boxes: Floats, points: Floats) -> NDArray[np.bool_]:
    """Return for each point whether any box covers it."""
    low, high = boxes[:, None, :2] <= points, points <= boxes[:, None, 2:]
    return np.asarray((low & high).all(axis=2).any(axis=0))


def _squares(points: Floats, half: float) -> Floats:
    return np.hstack([points - half, points + half])


def _steps() -> Iterator[Floats]:
    for radius in _RADII:
        for angle in _ANGLES:
            yield np.array([radius * np.cos(angle), radius * np.sin(angle)])


def _sizes(figure: Figure, texts: Sequence[str], size: float) -> list[tuple[float, float]]:
    renderer = FigureCanvasAgg(figure).get_renderer()
    sides: list[tuple[float, float]] = []
    for text in texts:
        artist = Text(0, 0, text, fontsize=size, fontstyle="italic", figure=figure)
        box = artist.get_window_extent(renderer)
        sides.append((box.width, box.height))
    return sides
