"""Pictures of single cells: violins of chosen genes, and an embedding of both arms."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from lingshu_model.contracts import decode_cells
from lingshu_tools.analysis.effects import expression_levels
from lingshu_tools.analysis.student import t_quantile
from lingshu_tools.children.canvas import BLUE, DARK, ORANGE, add_legend, figure_of
from lingshu_tools.children.objects import checked

Floats = NDArray[np.float64]
ARMS = (("control", BLUE), ("perturbed", ORANGE))
_WIDTH = 0.42
"""Half width of the widest violin, in genes."""
_NARROWEST = 0.05
"""Least bandwidth of a density, log1p_cp10k."""


def violin_values(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return `levels` (log1p_cp10k by arm, [cells, genes]) and `numbers`, a row for each cell.

    `job`: `arms` (`control` and `perturbed`, each `blob`, a path, and `digest`), `genes` and their
    `columns` in the panel, all of them measured; `most_cells`, how many of each arm are drawn.
    """
    levels, measured = _levels(job)
    chosen = (np.cumsum(measured) - 1)[job["columns"]]
    levels = {arm: values[:, chosen] for arm, values in levels.items()}
    numbers = [
        {"arm": arm, "cell": i, **{g: float(v) for g, v in zip(job["genes"], row, strict=True)}}
        for arm, values in levels.items()
        for i, row in enumerate(values)
    ]
    return {"levels": levels, "numbers": numbers}


def embedding_values(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return `points` ([cells, 2] by arm), `shares` of the variance and `numbers`, a row per cell.

    `details` go into the child's answer: the names of the axes, and of each arm the mean of its
    cells and half the 95 % Monte Carlo interval of that, on both axes.

    The axes are the first two principal components of log1p_cp10k over the cells of both arms.
    `job`: `arms` and `most_cells` as of `violin_values`, and `left_out`, columns of the panel that
    are not used.
    """
    levels, measured = _levels(job)
    used = measured.copy()
    used[job["left_out"]] = False
    kept = used[measured]
    table = np.concatenate([levels[arm][:, kept] for arm, _ in ARMS])
    coordinates, shares = principal_components(table)
    n = len(levels["control"])
    points = {"control": coordinates[:n], "perturbed": coordinates[n:]}
    numbers = [
        {"arm": arm, "cell": i, "pc1": float(x), "pc2": float(y)}
        for arm, values in points.items()
        for i, (x, y) in enumerate(values)
    ]
    details = {
        "axes": axis_labels(shares),
        "means": {
            arm: {"at": p.mean(axis=0).tolist(), "half": [_half_interval(v) for v in p.T]}
            for arm, p in points.items()
        },
    }
    return {"points": points, "shares": shares, "numbers": numbers, "details": details}


def principal_components(table: Floats) -> tuple[Floats, list[float]]:
    """Return the first two coordinates of each row and the share of the variance of each.

    The sign of a component is such that its largest loading is positive.
    """
    centred = table - table.mean(axis=0)
    _, sizes, loadings = np.linalg.svd(centred, full_matrices=False)
    total = float((sizes**2).sum())
    axes = np.zeros((2, table.shape[1]))
    axes[: len(loadings[:2])] = loadings[:2]
    largest = np.abs(axes).argmax(axis=1)
    axes *= np.where(axes[[0, 1], largest] < 0, -1.0, 1.0)[:, None]
    shares = [float(size**2) / total if total > 0 else 0.0 for size in sizes[:2]]
    return centred @ axes.T, [*shares, 0.0, 0.0][:2]


def violin(job: Mapping[str, Any]) -> tuple[Figure, list[str]]:
    """Return violins: for each gene the control cells on the left, the perturbed on the right.

    `levels` and `genes` as of `violin_values`; `ylabel`.
    """
    width = max(4.6, 1.0 + 0.8 * len(job["genes"]))
    figure, axes = figure_of(job, width, 4.0, left=0.7, bottom=1.05)
    for at in range(len(job["genes"])):
        for (arm, colour), side in zip(ARMS, (-1, 1), strict=True):
            _half(axes, at, side, job["levels"][arm][:, at], colour)
    axes.set_xticks(range(len(job["genes"])), job["genes"])
    axes.set_xlim(-0.6, len(job["genes"]) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(job["ylabel"])
    n = [len(job["levels"][arm]) for arm, _ in ARMS]
    keys: list[Any] = [
        Patch(facecolor=colour, alpha=0.55, label=f"{arm}, {count} cells")
        for (arm, colour), count in zip(ARMS, n, strict=True)
    ]
    add_legend(figure, [*keys, _mean_key()])
    return figure, []


def _half(axes: Axes, at: int, side: int, values: Floats, colour: str) -> None:
    """Draw one side of a violin with the mean of its cells and the 95 % interval of that."""
    grid, density = densities(values)
    edge = at + side * _WIDTH * density
    axes.fill_betweenx(grid, at, edge, color=colour, alpha=0.55, lw=0, zorder=2)
    axes.plot(edge, grid, color=colour, lw=0.8, zorder=3)
    mean, half = float(values.mean()), _half_interval(values)
    x = at + side * 0.13
    axes.errorbar([x], [mean], yerr=[[half], [half]], fmt="o", ms=3.4, color=DARK, lw=1.1,
                  capsize=2, zorder=4)  # fmt: skip


def densities(values: Floats) -> tuple[Floats, Floats]:
    """Return a grid over the values and their density on it, 1 at its highest.

    A Gaussian kernel with Silverman's bandwidth, reflected at 0, below which there is no level.
    """
    spread = min(float(values.std()), float(np.subtract(*np.percentile(values, [75, 25]))) / 1.34)
    spread = spread or float(values.std())
    bandwidth = max(_NARROWEST, 0.9 * spread * len(values) ** -0.2)
    grid = np.linspace(0, float(values.max()) + 2 * bandwidth, 160)
    around = np.concatenate([values, -values])
    z = (grid[:, None] - around[None, :]) / bandwidth
    density = np.exp(-0.5 * z**2).sum(axis=1)
    return grid, density / density.max()


def embedding(job: Mapping[str, Any]) -> tuple[Figure, list[str]]:
    """Return a scatter of the cells of both arms, with the mean of each and its 95 % interval.

    `points` and `shares` as of `embedding_values`.
    """
    figure, axes = figure_of(job, 5.0, 4.7, left=0.7, bottom=1.05)
    keys: list[Any] = []
    for (arm, colour), marker in zip(ARMS, ("o", "^"), strict=True):
        points = job["points"][arm]
        style: dict[str, Any] = {"marker": marker, "color": colour}
        axes.scatter(points[:, 0], points[:, 1], s=9, lw=0, alpha=0.5, zorder=2, **style)
        label = f"{arm}, {len(points)} cells"
        keys.append(Line2D([], [], ls="", ms=4.5, label=label, **style))
    for arm, _ in ARMS:
        points = job["points"][arm]
        (x, y), (dx, dy) = points.mean(axis=0), (_half_interval(p) for p in points.T)
        axes.errorbar([x], [y], xerr=[[dx], [dx]], yerr=[[dy], [dy]], fmt="none", color=DARK,
                      lw=1.2, capsize=2, zorder=5)  # fmt: skip
    start, end = (job["points"][arm].mean(axis=0) for arm, _ in ARMS)
    axes.annotate("", end, start, zorder=4, arrowprops={"arrowstyle": "->", "color": DARK})
    for name, label in zip("xy", axis_labels(job["shares"]), strict=True):
        getattr(axes, f"set_{name}label")(label)
    add_legend(figure, [*keys, _mean_key()])
    return figure, []


def axis_labels(shares: list[float]) -> list[str]:
    """Return the names of the two components with their shares of the variance."""
    return [
        f"component {i} of ln(1 + CP10K), {share:.1%} of variance"
        for i, share in enumerate(shares, 1)
    ]


def _mean_key() -> Line2D:
    return Line2D([], [], color=DARK, lw=1.2, marker="|", ms=6, label="mean, 95 % MC interval")


def _half_interval(values: Floats) -> float:
    n = len(values)
    return t_quantile(0.975, n - 1) * float(values.std(ddof=1)) / n**0.5 if n > 1 else 0.0


def _levels(job: Mapping[str, Any]) -> tuple[dict[str, Floats], NDArray[np.bool_]]:
    """Return log1p_cp10k of the first cells of each arm, and the genes that both measure."""
    arms = {
        arm: decode_cells(checked(Path(job["arms"][arm]["blob"]), job["arms"][arm]["digest"]))
        for arm, _ in ARMS
    }
    measured = np.logical_and.reduce([cells.measured for cells in arms.values()])
    return {
        a: expression_levels(c[: job["most_cells"]], measured) for a, c in arms.items()
    }, measured
