"""Figures of every condition and arm, means over conditions, and differences between arms."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from benchmarks.gene_structure.cells import (
    ARMS,
    BOTH,
    EFFECTS_ONLY,
    HALF,
    INDEPENDENT,
    NETWORK_ONLY,
    PARTS,
)
from lingshu_model.evaluate.tables import table

METRICS = ("cell_cov_ccc", "cell_cov_corr", "cell_cov_eig_ratio")
CCC, CORR, RATIO = METRICS
CONTROL = "control"
PAIRS = (
    (NETWORK_ONLY, EFFECTS_ONLY),
    (BOTH, EFFECTS_ONLY),
    *((part, HALF) for part in PARTS),
    *((part, INDEPENDENT) for part in (NETWORK_ONLY, BOTH)),
)
"""Arms whose differences are printed."""
Row = Mapping[str, str]


@dataclass(frozen=True)
class Condition:
    """A condition that was scored.

    Attributes:
        set: name of the checkpoint.
        name: of the condition.
        tier: what training has seen of it; `control` for unperturbed cells.
        held_out: held-out cells.
        cells: of each arm.
        delivered: the arm that the checkpoint delivers by default.
        values: by arm and metric, one for each draw in which it is defined, by draw.
    """

    set: str
    name: str
    tier: str
    held_out: int
    cells: int
    delivered: str
    values: Mapping[tuple[str, str], Mapping[int, float]]

    def mean(self, arm: str, metric: str) -> float | None:
        """Return the mean over draws; None where no draw has a value."""
        values = self.values.get((arm, metric), {})
        return fmean(values.values()) if values else None

    def differences(self, first: str, second: str, metric: str) -> list[float]:
        """Return first less second in each draw: both are compared with the same cells."""
        values, others = (self.values.get((arm, metric), {}) for arm in (first, second))
        return [values[draw] - others[draw] for draw in sorted(values.keys() & others.keys())]


def read(conditions: Iterable[Row], scores: Iterable[Row]) -> list[Condition]:
    """Return conditions with their scores.

    Args:
        conditions: rows with the fields of `Condition` up to `delivered`.
        scores: rows of `scorer.py`; a label is a condition's name, `|` and the draw.
    """
    values: dict[str, dict[tuple[str, str], dict[int, float]]] = {}
    for row in scores:
        name, _, draw = row["label"].rpartition("|")
        each = values.setdefault(name, {}).setdefault((row["arm"], row["metric"]), {})
        value = float(row["value"])
        # NaN: too few gene pairs are correlated on both sides.
        if value == value:
            each[int(draw)] = value
    return [
        Condition(
            row["set"],
            row["name"],
            row["tier"],
            int(row["held_out"]),
            int(row["cells"]),
            row["delivered"],
            values.get(row["name"], {}),
        )
        for row in conditions
    ]


def rows(conditions: Iterable[Condition]) -> list[dict[str, str]]:
    """Return a row per condition and arm, means over draws."""
    return [
        {
            "set": each.set,
            "condition": each.name,
            "tier": each.tier,
            "held_out_cells": str(each.held_out),
            "cells": str(each.cells),
            "arm": arm,
            "delivered": "yes" if arm == each.delivered else "",
            **{metric: _number(_shown(each, arm, metric)) for metric in METRICS},
        }
        for each in conditions
        for arm in ARMS
        if any(key[0] == arm for key in each.values)
    ]


def means(conditions: Sequence[Condition]) -> str:
    """Return Markdown: a table of arms for the perturbed and the control conditions of each set.

    Means are over the conditions of which there is another half, so that every arm of a table but
    the training cells has the same number.
    """
    lines: list[list[str]] = []
    for name, group in _groups(conditions):
        for arm in ARMS:
            with_arm = [each for each in group if each.mean(arm, CCC) is not None]
            if with_arm:
                shown = [_mean(with_arm, arm, metric) for metric in METRICS]
                label = f"**{arm}**" if arm == group[0].delivered else arm
                count = f"{len(with_arm)}"
                lines.append([name, label, count, *(_number(value) for value in shown)])
    header = ["set", "cells", "conditions", *METRICS]
    return table(header, lines)


def differences(conditions: Sequence[Condition]) -> str:
    """Return Markdown: mean differences between arms with their standard errors.

    Over three conditions or more the error is that of the mean over conditions, else the standard
    deviation over draws, which does not hold the noise of the held-out cells themselves.
    """
    lines: list[list[str]] = []
    for name, group in _groups(conditions):
        for first, second in PAIRS:
            shown = (CCC, CORR) if group[0].tier != CONTROL else (CCC,)
            cells = [_difference(group, first, second, metric) for metric in shown]
            if any(cells):
                blank = [""] * (2 - len(cells))
                lines.append([name, f"{first} less {second}", *cells, *blank])
    return table(["set", "difference", CCC, CORR], lines)


def _groups(conditions: Sequence[Condition]) -> Iterable[tuple[str, list[Condition]]]:
    for name in dict.fromkeys(each.set for each in conditions):
        halved = [c for c in conditions if c.set == name and c.mean(HALF, CCC) is not None]
        for control in (False, True):
            group = [each for each in halved if (each.tier == CONTROL) is control]
            if group:
                yield f"{name}, {CONTROL}" if control else name, group


def _difference(group: Sequence[Condition], first: str, second: str, metric: str) -> str:
    by_condition = [d for each in group if (d := each.differences(first, second, metric))]
    if not by_condition:
        return ""
    # Each condition counts once, however many of its draws are defined.
    each = [fmean(values) for values in by_condition]
    spread = _error(each) if len(each) >= 3 else fmean(map(_deviation, by_condition))
    return f"{fmean(each):+.3f} ± {spread:.3f}"


def _error(values: Sequence[float]) -> float:
    return stdev(values) / len(values) ** 0.5


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else float("nan")


def _mean(group: Sequence[Condition], arm: str, metric: str) -> float | None:
    values = [value for each in group if (value := _shown(each, arm, metric)) is not None]
    return fmean(values) if values else None


def _shown(each: Condition, arm: str, metric: str) -> float | None:
    # Control cells do not respond: the responding genes of the other two metrics are noise.
    return each.mean(arm, metric) if each.tier != CONTROL or metric == CCC else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
