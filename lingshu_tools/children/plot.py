"""The child that draws: numbers in, a PNG and an SVG out, and the numbers as CSV.

Colours are Okabe and Ito's, told apart by colour-blind readers and in grey by shape or fill. Equal
numbers give equal files.
"""

import math
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from lingshu_tools.children.canvas import BLUE, DARK, GREY, ORANGE, add_legend, figure_of
from lingshu_tools.children.cell_plots import embedding, embedding_values, violin, violin_values
from lingshu_tools.children.effect_plots import heatmap, interaction
from lingshu_tools.children.labels import label_points
from lingshu_tools.children.plates import draw_plate
from lingshu_tools.report.csv_tables import write_csv

DPI = (200, 150, 120, 100, 80, 60)
"""Pixels per inch: the first with which a picture is small enough."""
MAX_PNG = 60_000
"""Bytes; a client may put a picture into the context of a model, as base64."""
_COLOURS = 32
# These choose a backend or need one; none of them is seen in a file.
_NOT_OF_A_PICTURE = ("backend", "backend_fallback", "interactive", "toolbar", "timezone")
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Arial", "Helvetica", "DejaVu Sans"],
    "font.size": 8,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lingshu",
    "savefig.facecolor": "white",
}


def run(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return `width`, `height` (pixels), the `unlabelled` names, and `details` of a preparation.

    Args:
        job: `kind` (of `DRAWINGS`), `title`, `subtitle`, `footnote`, `name` (of the files, without
            suffix), `numbers` (the rows of the CSV file), and what the drawing describes; of the
            kinds in `PREPARATIONS` what the preparation describes.
        folder: where the PNG, SVG and CSV files are put.
    """
    if job["kind"] in PREPARATIONS:
        job = {**job, **PREPARATIONS[job["kind"]](job)}
    write_csv(folder / f"{job['name']}.csv", job["numbers"])
    defaults = {k: v for k, v in mpl.rcParamsDefault.items() if k not in _NOT_OF_A_PICTURE}
    # Whatever a user's matplotlibrc says, a picture starts from matplotlib's own defaults.
    with mpl.rc_context(cast("Any", defaults | STYLE)):
        figure, left = DRAWINGS[job["kind"]](job)
        width, height = write_png(figure, folder / f"{job['name']}.png")
        nothing = {"Date": None, "Creator": None}
        figure.savefig(folder / f"{job['name']}.svg", metadata=nothing)
    return {"width": width, "height": height, "unlabelled": left, **job.get("details", {})}


def write_png(figure: Figure, path: Path) -> tuple[int, int]:
    """Write a picture of at most `MAX_PNG` bytes and return its width and height in pixels.

    A picture that is larger is drawn with fewer pixels; for print there is the SVG.
    """
    for dpi in DPI:
        drawn = BytesIO()
        figure.savefig(drawn, dpi=dpi, metadata={"Software": None})
        # Few colours and flat areas: a palette loses nothing that is seen.
        whole = Image.open(drawn).convert("RGB")
        picture = whole.quantize(_COLOURS, kmeans=1, dither=Image.Dither.NONE)
        small = BytesIO()
        picture.save(small, "PNG", optimize=True, dpi=(dpi, dpi))
        if small.tell() <= MAX_PNG or dpi == DPI[-1]:
            path.write_bytes(small.getvalue())
            return picture.size
    raise AssertionError(DPI)


def ranking(job: Mapping[str, Any]) -> tuple[Figure, list[str]]:
    """Return a ranking: one line for each candidate, best on top, with both of its errors.

    `rows`: `label`, `score`, `mc_interval` or None, `prediction_error` or None, `hit` (True, False
    or None where not tested); `sham_limit` or None; `xlabel`; `called_by`, what a hit is called, or
    None where null labels say it.
    """
    rows = job["rows"]
    height = 1.75 + 0.19 * len(rows)
    figure, axes = figure_of(job, 6.3, height, left=1.75, bottom=1.12)
    for y, row in enumerate(rows):
        _ranked(axes, y, row)
    axes.axvline(0, color=DARK, lw=0.7, zorder=1)
    limit = job.get("sham_limit")
    if limit is not None:
        axes.axvspan(-limit, limit, color="#e9e9e9", lw=0, zorder=0)
    axes.set_yticks(range(len(rows)), [r["label"] for r in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", color="#eeeeee", lw=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.set_xlabel(job["xlabel"])
    add_legend(figure, _ranking_keys(rows, limit, job.get("called_by")))
    return figure, []


def volcano(job: Mapping[str, Any]) -> tuple[Figure, list[str]]:
    """Return a volcano: one point for each gene, called ones coloured, the strongest named.

    `genes`, `x`, `y` (None where not tested), `called` (-1, 0, 1); `labels`, gene names in the
    order in which they are to find a place; `target` names; `xlabel`, `ylabel`, `threshold` or
    None, the y above which a gene is called.
    """
    figure, axes = figure_of(job, 5.0, 4.7, left=0.75, bottom=1.05)
    x = np.array(job["x"], float)
    y = np.array(job["y"], float)
    called = np.array(job["called"], int)
    for sign, color, marker in ((0, GREY, "o"), (-1, BLUE, "v"), (1, ORANGE, "^")):
        mine = called == sign
        size = 10 if sign == 0 else 20
        axes.scatter(x[mine], y[mine], s=size, c=color, marker=marker, lw=0, alpha=0.85, zorder=3)
    _target_rings(axes, job, x, y)
    if job.get("threshold") is not None:
        axes.axhline(job["threshold"], color=DARK, lw=0.7, ls=(0, (4, 3)), zorder=1)
    axes.axvline(0, color=DARK, lw=0.5, zorder=1)
    axes.margins(x=0.16, y=0.1)
    axes.set_ylim(bottom=min(0.0, float(np.nanmin(y))))
    axes.set_xlabel(job["xlabel"])
    axes.set_ylabel(job["ylabel"])
    add_legend(figure, _volcano_keys(called, job))
    at = {g: i for i, g in enumerate(job["genes"])}
    named = [g for g in job["labels"] if math.isfinite(y[at[g]])]
    points = [(float(x[at[g]]), float(y[at[g]])) for g in named]
    left = label_points(axes, points, named, others=np.column_stack([x, y]), size=7.5)
    if left:
        text = f"{len(left)} of {len(named)} called genes have no room for a name"
        axes.set_title(text, fontsize=6.5, color="#555555", loc="right", pad=3)
    return figure, left


def plate(job: Mapping[str, Any]) -> tuple[Figure, list[str]]:
    """Return plate maps, one under the other: see `plates.draw_plate`.

    `wells`: `plate`, `row`, `column`, `label`, `direction` (of control wells empty); `shape` [rows,
    columns]; `controls`, how control wells are labelled.
    """
    plates = sorted({well["plate"] for well in job["wells"]})
    rows, columns = job["shape"]
    height = 1.0 + len(plates) * (0.55 + 0.36 * rows * (12 / columns))
    figure, axes = figure_of(job, 6.3, height, left=0.35, bottom=0.35)
    axes.set_axis_off()
    for place, number in enumerate(plates):
        wells = [well for well in job["wells"] if well["plate"] == number]
        draw_plate(figure, axes, wells, job, (place, len(plates)))
    return figure, []


Drawing = Callable[[Mapping[str, Any]], tuple[Figure, list[str]]]
DRAWINGS: dict[str, Drawing] = {
    "ranking": ranking,
    "volcano": volcano,
    "heatmap": heatmap,
    "violin": violin,
    "embedding": embedding,
    "interaction": interaction,
    "plate": plate,
}
"""From a job to its figure and the names that found no place, by kind."""
PREPARATIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "violin": violin_values,
    "embedding": embedding_values,
}
"""From a job with files of cells to what is drawn, `numbers` among it."""


def _ranked(axes: Axes, y: int, row: Mapping[str, Any]) -> None:
    score, error, interval = row["score"], row["prediction_error"], row["mc_interval"]
    if error is not None:
        axes.plot([score - error, score + error], [y, y], color="#9ecae1", lw=5.5, zorder=2,
                  solid_capstyle="butt")  # fmt: skip
    if interval is not None:
        axes.plot(interval, [y, y], color=DARK, lw=1.0, zorder=3, marker="|", ms=6, mew=1.0)
    face = BLUE if row["hit"] else "white"
    axes.plot([score], [y], marker="o", ms=3.6, mfc=face, mec=BLUE, mew=0.9, zorder=4)


def _ranking_keys(
    rows: list[Mapping[str, Any]], limit: float | None, called_by: str | None
) -> list[Any]:
    tested = any(r["hit"] is not None for r in rows)
    dot: dict[str, Any] = {"marker": "o", "ls": "", "ms": 3.8, "mec": BLUE}
    keys: list[Any] = []
    hit = f"sign {called_by}" if called_by else "unlike null labels (FDR ≤ 5 %)"
    if tested:
        keys.append(Line2D([], [], mfc=BLUE, label=f"score, {hit}", **dot))
    unlike = "sign not supported" if called_by else "not told from null labels"
    plain = f"score, {unlike}" if tested else "score"
    keys.append(Line2D([], [], mfc="white", label=plain, **dot))
    keys.append(
        Line2D([], [], color=DARK, lw=1.0, marker="|", ms=6, label="95 % Monte Carlo interval")
    )
    if any(r["prediction_error"] is not None for r in rows):
        keys.append(Line2D([], [], color="#9ecae1", lw=5.5, label="± held-out prediction error"))
    if limit is not None:
        keys.append(Patch(color="#e9e9e9", label="95 % range of null labels"))
    return keys


def _volcano_keys(called: Any, job: Mapping[str, Any]) -> list[Any]:
    keys = [
        Line2D(
            [], [], ls="", marker=m, ms=5, mfc=c, mec="none", label=f"{t} ({(called == s).sum()})"
        )
        for s, c, m, t in (
            (-1, BLUE, "v", "lower"),
            (1, ORANGE, "^", "higher"),
            (
                0,
                GREY,
                "o",
                _not_called(job),
            ),
        )
        if s == 0 or job.get("threshold") is not None
    ]
    if job["target"]:
        keys.append(
            Line2D(
                [], [], ls="", marker="o", ms=8, mfc="none", mec=DARK, label="the target's own gene"
            )
        )
    return keys


def _not_called(job: Mapping[str, Any]) -> str:
    if job.get("threshold") is None:
        return "gene"
    return "sign not supported" if job.get("called_by") else "not told from null labels"


def _target_rings(axes: Axes, job: Mapping[str, Any], x: Any, y: Any) -> None:
    at = [i for i, g in enumerate(job["genes"]) if g in job["target"]]
    axes.scatter(x[at], y[at], s=70, facecolors="none", edgecolors=DARK, lw=0.9, zorder=4)
