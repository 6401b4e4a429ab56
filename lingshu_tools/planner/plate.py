"""Plate maps: where the wells of a batch are, with replicates and controls spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np

SHAPES = {96: (8, 12), 384: (16, 24)}
"""Rows and columns of a plate by its number of wells."""
CONTROL = "control"
CONTROL_SHARE, LEAST_CONTROLS = 0.1, 4
_TRIES = 50
"""Random layouts of a plate, of which the one with the best spread replicates is kept."""


@dataclass(frozen=True)
class Well:
    """One well.

    Attributes:
        plate: from 1.
        row, column: from 0.
        label: the perturbation, or `control`.
        replicate: from 1.
    """

    plate: int
    row: int
    column: int
    label: str
    replicate: int

    @property
    def name(self) -> str:
        """Such as `B07`."""
        return f"{chr(ord('A') + self.row)}{self.column + 1:02d}"


def n_controls(n_wells: int) -> int:
    """Return how many control wells stand beside `n_wells` of perturbations."""
    return max(LEAST_CONTROLS, ceil(CONTROL_SHARE * n_wells))


def plate_map(labels: Sequence[str], replicates: int, size: int, seed: int) -> list[Well]:
    """Return the wells of a batch, in reading order.

    Every plate holds whole replicates where they fit, and its controls. Wells at the edge,
    which dry first, are used when the others are full. Positions are random but for that, and the
    controls are spread over the columns.

    Args:
        labels: perturbations.
        replicates: wells of each.
        size: wells of a plate, 96 or 384.
        seed: of the positions.
    """
    wells = [(label, r + 1) for r in range(replicates) for label in labels]
    generator = np.random.Generator(np.random.Philox(key=[96, seed]))
    result: list[Well] = []
    for number, content in enumerate(_plates(wells, len(labels), size), 1):
        result += _laid_out(content, number, size, generator)
    return sorted(result, key=lambda w: (w.plate, w.row, w.column))


def _plates(wells: list[tuple[str, int]], n_labels: int, size: int) -> list[list[tuple[str, int]]]:
    """Return the perturbed wells of each plate, as many whole replicates as fit on one."""
    most = size
    while most + n_controls(most) > size:
        most -= 1
    step = most if n_labels > most else most - most % n_labels
    return [wells[start : start + step] for start in range(0, len(wells), step)]


def _laid_out(
    content: list[tuple[str, int]], number: int, size: int, generator: np.random.Generator
) -> list[Well]:
    rows, columns = SHAPES[size]
    controls = n_controls(len(content))
    places = _places(rows, columns)[: len(content) + controls]
    by_column = sorted(places, key=lambda place: (place[1], place[0]))
    # One control in each of as many stretches of equal length.
    cuts = np.linspace(0, len(by_column), controls + 1).astype(int)
    at = {int(generator.integers(a, b)) for a, b in pairwise(cuts.tolist())}
    result = [
        Well(number, by_column[i][0], by_column[i][1], CONTROL, rank)
        for rank, i in enumerate(sorted(at), 1)
    ]
    free = [place for index, place in enumerate(by_column) if index not in at]
    layouts = [generator.permutation(len(free)) for _ in range(_TRIES)]
    order = min(layouts, key=lambda layout: _clashes(content, [free[i] for i in layout]))
    result += [
        Well(number, free[i][0], free[i][1], label, replicate)
        for i, (label, replicate) in zip(order, content, strict=True)
    ]
    return result


def _places(rows: int, columns: int) -> list[tuple[int, int]]:
    """Return all places, those at the edge last."""
    every = [(r, c) for r in range(rows) for c in range(columns)]
    return sorted(every, key=lambda p: (p[0] in (0, rows - 1) or p[1] in (0, columns - 1), p[1]))


def _clashes(content: Sequence[tuple[str, int]], places: Sequence[tuple[int, int]]) -> int:
    """Return how often two wells of one perturbation are in one row or column."""
    used: set[tuple[str, str, int]] = set()
    clashes = 0
    for (label, _), (row, column) in zip(content, places, strict=True):
        for key in (("row", label, row), ("column", label, column)):
            clashes += key in used
            used.add(key)
    return clashes
