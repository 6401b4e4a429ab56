"""Plate maps as pictures: a well's colour is its effect direction, its text the perturbation."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

# Okabe and Ito's, told apart by colour-blind readers; controls are grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
OTHER, CONTROL_COLOUR, EMPTY = "#b0b0b0", "#555555", "#f2f2f2"
_SHORTER = (" knockout", " crispri", " crispra")


def draw_plate(
    figure: Figure,
    area: Axes,
    wells: Sequence[Mapping[str, Any]],
    job: Mapping[str, Any],
    place: tuple[int, int],
) -> None:
    """Draw one plate into its share of an area.

    Args:
        figure: the figure.
        area: what all plates share.
        wells: of this plate.
        job: `shape`, `controls`, and all `wells`, by which colours are given.
        place: number of this plate, from 0, and how many there are.
    """
    rows, columns = job["shape"]
    box = area.get_position()
    height = box.height / place[1]
    bottom = box.y1 - (place[0] + 1) * height
    axes = figure.add_axes((box.x0, bottom, box.width, 0.94 * height))
    colours = _colours(job)
    by_place = {(well["row"], well["column"]): well for well in wells}
    for row in range(rows):
        for column in range(columns):
            well = by_place.get((row, column))
            face = EMPTY if well is None else _face(well, job, colours)
            axes.add_patch(Circle((column, row), 0.46, fc=face, ec="white", lw=0.4))
            if well is not None:
                text, ink = _text(well["label"]), "white" if face != "#F0E442" else "black"
                longest = max(len(line) for line in text.split("\n"))
                size = (4.4 if columns <= 12 else 2.2) * min(1.0, 7 / max(longest, 1))
                axes.text(column, row, text, ha="center", va="center", fontsize=size, color=ink)
    axes.set_xlim(-0.7, columns - 0.3)
    axes.set_ylim(rows - 0.3, -0.9)
    axes.set_aspect("equal")
    axes.set_xticks(range(columns), [str(c + 1) for c in range(columns)], fontsize=6)
    axes.set_yticks(range(rows), [chr(ord("A") + r) for r in range(rows)], fontsize=6)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=1)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if place[1] > 1:
        axes.set_ylabel(f"plate {place[0] + 1}", fontsize=7)


def _colours(job: Mapping[str, Any]) -> dict[str, str]:
    names = list(dict.fromkeys(w["direction"] for w in job["wells"] if w["direction"]))
    return {name: COLOURS[i] if i < len(COLOURS) else OTHER for i, name in enumerate(sorted(names))}


def _face(well: Mapping[str, Any], job: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    if well["label"] == job["controls"]:
        return CONTROL_COLOUR
    return colours.get(well["direction"], OTHER)


def _text(label: str) -> str:
    for kind in _SHORTER:
        label = label.replace(kind, "")
    return label.replace(" + ", "\n")
