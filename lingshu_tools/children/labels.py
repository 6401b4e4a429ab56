"""Point labels that do not collide: each is put at the first free place around its point.

Knows nothing of what is plotted.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

_RADII = (8, 13, 19, 27, 37, 50, 66)  # points
_ANGLES = np.deg2rad([20, 160, -20, -160, 60, 120, -60, -120, 90, -90, 0, 180])
_PAD = 2.0  # pixels of air around a label
_DOT = 4.0  # half the side of the square a point keeps free, pixels


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    size: float = 8,
    color: str = "#222222",
) -> list[str]:
    """Label points in the order given and return the texts that found no free place.

    Args:
        axes: with final limits; nothing may be moved afterwards.
        points: data coordinates.
        texts: one for each point.
        size: of the text, in points.
        color: of text and leader lines.
    """
    figure = cast("Figure", axes.figure)
    pixels = axes.transData.transform(np.array(points, float).reshape(-1, 2))
    sides = _sizes(figure, texts, size)
    taken = [Bbox.from_bounds(x - _DOT, y - _DOT, 2 * _DOT, 2 * _DOT) for x, y in pixels]
    left: list[str] = []
    for point, pixel, side, text in zip(points, pixels, sides, texts, strict=True):
        place = _free(pixel, side, taken, axes.get_window_extent(), figure.dpi / 72)
        if place is None:
            left.append(text)
            continue
        taken.append(place[0])
        axes.annotate(
            text,
            point,
            xytext=place[1],
            textcoords="offset points",
            fontsize=size,
            fontstyle="italic",
            color=color,
            ha="center",
            va="center",
            zorder=5,
            arrowprops={
                "arrowstyle": "-",
                "lw": 0.4,
                "color": "#777777",
                "shrinkA": 0,
                "shrinkB": 2,
                "relpos": (0.5, 0.5),
            },
            bbox={"boxstyle": "square,pad=0.05", "fc": "white", "ec": "none", "alpha": 0.75},
        )
    return left


def _sizes(figure: Figure, texts: Sequence[str], size: float) -> list[tuple[float, float]]:
    renderer = FigureCanvasAgg(figure).get_renderer()
    sides: list[tuple[float, float]] = []
    for text in texts:
        made = Text(0, 0, text, fontsize=size, fontstyle="italic", figure=figure)
        box = made.get_window_extent(renderer)
        sides.append((box.width, box.height))
    return sides


def _free(
    pixel: np.ndarray, side: tuple[float, float], taken: list[Bbox], inside: Bbox, scale: float
) -> tuple[Bbox, tuple[float, float]] | None:
    """Return the first free box for a label and the offset of its middle in points."""
    width, height = side[0] + 2 * _PAD, side[1] + 2 * _PAD
    for dx, dy in _places():
        # A label beside its point touches the circle with its near edge, not with its middle.
        x = pixel[0] + dx * scale + np.sign(round(dx)) * side[0] / 2
        y = pixel[1] + dy * scale
        box = Bbox.from_bounds(x - width / 2, y - height / 2, width, height)
        if _within(box, inside) and not any(box.overlaps(other) for other in taken):
            return box, ((x - pixel[0]) / scale, (y - pixel[1]) / scale)
    return None


def _places() -> Iterator[tuple[float, float]]:
    for radius in _RADII:
        for angle in _ANGLES:
            yield float(radius * np.cos(angle)), float(radius * np.sin(angle))


def _within(box: Bbox, outer: Bbox) -> bool:
    return box.x0 >= outer.x0 and box.x1 <= outer.x1 and box.y0 >= outer.y0 and box.y1 <= outer.y1
