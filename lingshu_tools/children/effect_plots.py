"""Pictures of effects: heat maps over experiments, and combinations against their parts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lingshu_tools.children.canvas import BLUE, DARK, GREY, ORANGE, add_legend, figure_of
from lingshu_tools.children.labels import label_points

_STEPS = 15
"""Colours of a heat map; an odd number has white in the middle."""
_SIDES = ((0, GREY, "o"), (-1, BLUE, "v"), (1, ORANGE, "^"))


def heatmap(job: Mapping[str, Any]) -> tuple[Figure, list[str]]:
    """Return a heat map: a row for each experiment, a column for each gene.

    `rows` (labels), `genes`, `values` [rows][genes] or None where unmeasured, `called`
    [rows][genes] whether the sign is called, `called_by`, `zlabel`, and `null_limit`, half the
    95 % range of null labels, or None.
    """
    n_rows, n_genes = len(job["rows"]), len(job["genes"])
    figure, axes = figure_of(
        job, max(5.0, 2.1 + 0.19 * n_genes), 2.75 + 0.19 * n_rows, left=1.85, bottom=1.95
    )
    values = np.array(job["values"], float)
    size = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    edges = np.linspace(-size, size, _STEPS + 1)
    colours = LinearSegmentedColormap.from_list("effects", [BLUE, "white", ORANGE], _STEPS)
    colours.set_bad("#bbbbbb")
    picture = axes.imshow(
        np.ma.masked_invalid(values), cmap=colours, norm=BoundaryNorm(edges, _STEPS), aspect="auto"
    )
    y, x = np.nonzero(np.array(job["called"], bool))
    axes.plot(x, y, ls="", marker=".", ms=3, color=DARK)
    axes.set_yticks(range(n_rows), job["rows"])
    axes.set_xticks(range(n_genes), job["genes"], rotation=90, fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _scale(figure, picture, size, job)
    keys: list[Any] = [Line2D([], [], ls="", marker=".", ms=5, color=DARK, label=job["called_by"])]
    if np.isnan(values).any():
        keys.append(Patch(color="#bbbbbb", label="not measured"))
    add_legend(figure, keys)
    return figure, []


def _scale(figure: Figure, picture: Any, size: float, job: Mapping[str, Any]) -> None:
    """Draw the colour bar with the range of null labels on it."""
    width, height = figure.get_size_inches()
    box = (1.85 / width, 0.86 / height, min(2.6, width - 2.2) / width, 0.1 / height)
    bar = figure.add_axes(box)
    figure.colorbar(
        picture, cax=bar, orientation="horizontal", ticks=[-size, 0, size], format="%.2g"
    )
    bar.set_xlabel(job["zlabel"], fontsize=7)
    bar.tick_params(labelsize=7, length=2)
    limit = job.get("null_limit")
    if limit is not None:
        for side in (-limit, limit):
            bar.axvline(side, color=DARK, lw=1.2, ls=(0, (2, 1)))


def interaction(job: Mapping[str, Any]) -> tuple[Figure, list[str]]:
    """Return an interaction: for each gene the effect of a combination against its parts' sum.

    `genes`, `x` (the sum), `y` (the combination), `half` (half the 95 % interval of their
    difference), `called` (-1 below the sum, 0, 1 above), `labels`, `target`, `xlabel`, `ylabel`.
    """
    figure, axes = figure_of(job, 5.0, 4.9, left=0.75, bottom=1.25)
    x, y, half = (np.array(job[key], float) for key in ("x", "y", "half"))
    called = np.array(job["called"], int)
    limit = float(max(np.abs(x).max(), np.abs(y).max())) * 1.15 or 1.0
    _sum_line(axes, limit, float(np.median(half)))
    for side, colour, marker in _SIDES:
        mine = called == side
        if side:
            axes.errorbar(x[mine], y[mine], yerr=half[mine], fmt="none", ecolor=colour, lw=0.8,
                          zorder=2)  # fmt: skip
        axes.scatter(x[mine], y[mine], s=20 if side else 10, c=colour, marker=marker, lw=0,
                     alpha=0.85, zorder=3)  # fmt: skip
    at = {gene: i for i, gene in enumerate(job["genes"])}
    targets = [at[g] for g in job["target"] if g in at]
    axes.scatter(x[targets], y[targets], s=70, facecolors="none", edgecolors=DARK, lw=0.9, zorder=4)
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-limit, limit)
    axes.set_xlabel(job["xlabel"])
    axes.set_ylabel(job["ylabel"])
    add_legend(figure, _interaction_keys(called, bool(targets)))
    points = [(float(x[at[g]]), float(y[at[g]])) for g in job["labels"]]
    left = label_points(axes, points, job["labels"], others=np.column_stack([x, y]), size=7.5)
    return figure, left


def _sum_line(axes: Axes, limit: float, half: float) -> None:
    """Draw where the combination equals the sum, and the median 95 % interval around it."""
    ends = np.array([-limit, limit])
    axes.fill_between(ends, ends - half, ends + half, color="#e9e9e9", lw=0, zorder=0)
    axes.plot(ends, ends, color=DARK, lw=0.7, ls=(0, (4, 3)), zorder=1)
    axes.axhline(0, color=DARK, lw=0.4, zorder=1)
    axes.axvline(0, color=DARK, lw=0.4, zorder=1)


def _interaction_keys(called: Any, has_targets: bool) -> list[Any]:  # noqa: FBT001 - drawn or not
    names = ("95 % interval holds the sum", "below the sum", "above the sum")
    keys: list[Any] = [
        Line2D(
            [],
            [],
            ls="",
            marker=marker,
            ms=5,
            mfc=colour,
            mec="none",
            label=f"{name} ({(called == side).sum()})",
        )
        for (side, colour, marker), name in zip(_SIDES, names, strict=True)
    ]
    keys.append(Line2D([], [], color=DARK, lw=0.7, ls=(0, (4, 3)), label="sum of the parts"))
    keys.append(Patch(color="#e9e9e9", label="median 95 % interval of the difference"))
    if has_targets:
        ring: dict[str, Any] = {"ls": "", "marker": "o", "ms": 8, "mfc": "none", "mec": DARK}
        keys.append(Line2D([], [], label="a target's own gene", **ring))
    return keys
