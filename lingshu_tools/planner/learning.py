"""What wet-lab values say of a screen's predictions, and what to measure next.

Values are averaged over replicates and turned so that larger is better; where control wells were
measured, their mean is taken off. The surrogate's features are the predicted score, the directions
of the predicted effects, the parts of a combination, and values of other screens of the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lingshu_tools.experiments.designs import label_of
from lingshu_tools.ledger import Measurement
from lingshu_tools.planner.batch import Floats, Pool
from lingshu_tools.planner.plate import CONTROL
from lingshu_tools.planner.portfolio import Credit, credited, fill, shares
from lingshu_tools.planner.surrogate import (
    FEWEST,
    Surrogate,
    is_useful,
    rank_correlation,
    ranked,
)

VALUES = "values"
"""What the payload of measured values says it is."""
SCORE_UNITS = "log1p_cp10k"
"""The units in which a value can be compared with a predicted score itself."""
COMPONENTS = 8
HIT_SHARE = 0.1
NO_WIDTH = 1e-9
"""Width up to which an interval says nothing, log1p_cp10k."""
"""Share of the measured perturbations that are hits where no threshold is given."""
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Measured:
    """Values of one perturbation.

    Attributes:
        value: mean over replicates; larger is better, and control wells are taken off.
        reading: the same without control wells taken off: what a threshold of hits is about.
        se: standard error of `value`; None of one replicate.
        n: replicates.
    """

    value: float
    reading: float
    se: float | None
    n: int


@dataclass(frozen=True)
class Comparison:
    """How predictions and measured values agree, as evidence of this ledger.

    Attributes:
        n: perturbations that were predicted and measured.
        rank_correlation: Spearman's, of predicted scores and values; None of fewer than three.
        coverage: share of values within the 95 % posterior interval, widened by their standard
            error; None in other units than those of scores, or where no interval has a width.
        enrichment: hits among the better half by prediction over hits expected there by chance;
            None without a hit.
        hits: labels of the hits.
    """

    n: int
    rank_correlation: float | None
    coverage: float | None
    enrichment: float | None
    hits: tuple[str, ...]


@dataclass(frozen=True)
class Next:
    """What to measure next.

    Attributes:
        chosen: strategies that chose each perturbation, by label, in order.
        skill: leave-one-out rank correlation of the surrogate; None with too few values.
        useful: whether the surrogate's features predict the values.
    """

    chosen: Mapping[str, tuple[str, ...]]
    skill: float | None
    useful: bool


def averaged(payloads: Iterable[Mapping[str, Any]]) -> dict[str, Measured]:
    """Return the values of all recordings by label; control wells are left out."""
    # A well that is recorded again counts once.
    wells: dict[str, dict[int, tuple[float, float]]] = {}
    for payload in payloads:
        sign = -1.0 if payload["better"] == "lower" else 1.0
        rows = [(row[0], row[2], sign * float(row[1])) for row in payload["values"]]
        controls = [value for label, _, value in rows if label == CONTROL]
        offset = float(np.mean(controls)) if controls else 0.0
        for label, replicate, value in rows:
            if label != CONTROL:
                wells.setdefault(label, {})[replicate] = value - offset, value
    return {label: _mean(list(values.values())) for label, values in wells.items()}


def value_payloads(measurements: Sequence[Measurement]) -> list[Mapping[str, Any]]:
    """Return the payloads that hold values, oldest first."""
    return [m.payload for m in measurements if m.payload.get("kind") == VALUES]


def compared(
    pool: Pool, measured: Mapping[str, Measured], *, units: str, hit_at: float | None
) -> Comparison:
    """Return how predicted scores and measured values agree."""
    places = _places(pool)
    known = [label for label in measured if label in places]
    hits = hits_of(measured, hit_at)
    predicted = np.array([pool.scores[places[label]].mean for label in known])
    values = np.array([measured[label].value for label in known])
    return Comparison(
        len(known),
        rank_correlation(predicted, values) if len(known) >= 3 else None,
        _coverage(pool, places, measured, known) if units == SCORE_UNITS and known else None,
        _enrichment(predicted, np.array([label in hits for label in known])),
        tuple(sorted(hits, key=lambda label: (-measured[label].value, label))),
    )


def threshold(hit_at: float | None, better: str) -> float | None:
    """Return the value of a hit where larger is better, as readings are turned."""
    return -hit_at if hit_at is not None and better == "lower" else hit_at


def hits_of(measured: Mapping[str, Measured], hit_at: float | None) -> set[str]:
    """Return the hits: from a threshold, else the best tenth of what was measured.

    The threshold is one of readings, of which larger is better (`threshold`).
    """
    if hit_at is not None:
        return {label for label, m in measured.items() if m.reading >= hit_at}
    n = max(1, round(HIT_SHARE * len(measured))) if measured else 0
    ordered = sorted(measured, key=lambda label: (-measured[label].value, label))
    return {label for label in ordered[:n] if measured[label].value > 0}


def features_of(pool: Pool, effects: Floats, others: Sequence[Mapping[str, float]]) -> Floats:
    """Return the surrogate's features, [candidates, features].

    Args:
        pool: the candidates.
        effects: their predicted changes, [candidates, genes].
        others: values of other screens, by label.
    """
    columns = [_standard(np.array([score.mean for score in pool.scores])[:, None])]
    centred = effects - effects.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    kept = singular > 1e-9 * max(float(singular.max(initial=0.0)), 1e-30)
    components = (left * singular)[:, kept][:, :COMPONENTS]
    scale = float(np.abs(components).max(initial=0.0))
    columns.append(components / scale if scale > 0 else components)
    parts = sorted({i.sort_key for c in pool.candidates for i in c})
    if any(len(c) > 1 for c in pool.candidates):
        member = [[key in {i.sort_key for i in c} for key in parts] for c in pool.candidates]
        columns.append(0.5 * np.array(member, float))
    labels = [label_of(c) for c in pool.candidates]
    for other in others:
        values = np.array([other.get(label, np.nan) for label in labels])
        if np.isfinite(values).sum() >= FEWEST:
            filled = np.where(np.isfinite(values), values, np.nanmean(values))
            columns.append(_standard(filled[:, None]))
    return np.hstack(columns)


def next_candidates(
    pool: Pool,
    features: Floats,
    measured: Mapping[str, Measured],
    payloads: Sequence[Mapping[str, Any]],
    *,
    n: int,
    hit_at: float | None,
    known: Iterable[str] = (),
    seed: int = 0,
) -> Next:
    """Return what to measure next: strategies share the wells by what each has hit.

    Args:
        pool: the candidates.
        features: of each.
        measured: values so far.
        payloads: recordings so far, with the strategies that chose their perturbations.
        n: how many to choose.
        hit_at: value of a hit; None for the best tenth.
        known: labels to be tried early, such as those of essential genes.
        seed: of Thompson's draws and of random choices.
    """
    labels = [label_of(c) for c in pool.candidates]
    places = {label: i for i, label in enumerate(labels)}
    free = np.array([i for i, label in enumerate(labels) if label not in measured], np.intp)
    if not len(free):
        return Next({}, None, useful=False)
    generator = np.random.Generator(np.random.Philox(key=[7, seed]))
    orders: dict[str, Any] = {
        "model": free[np.argsort(-pool.means[free], kind="stable")],
        "random": generator.permutation(free),
    }
    names = set(known)
    if names:
        orders["known genes"] = [i for i in free.tolist() if labels[i] in names]
    rows = [label for label in measured if label in places]
    skill = None
    if len(rows) >= FEWEST:
        at = np.array([places[label] for label in rows])
        values = np.array([measured[label].value for label in rows])
        surrogate = Surrogate.fit(features[at], values)
        skill = surrogate.skill
        if is_useful(skill, len(rows)):
            orders |= ranked(surrogate, features, free, n, generator)
    hits = hits_of(measured, hit_at)
    rate = len(hits) / max(len(measured), 1)
    known_credit = _credit(payloads, hits, set(measured))
    share = shares({name: known_credit.get(name, Credit()) for name in orders}, rate)
    chosen = fill(orders, share, n)
    useful = skill is not None and is_useful(skill, len(rows))
    return Next({labels[i]: tuple(names) for i, names in chosen.items()}, skill, useful=useful)


def _credit(
    payloads: Sequence[Mapping[str, Any]], hits: set[str], measured: set[str]
) -> dict[str, Credit]:
    credit: dict[str, Credit] = {}
    for payload in payloads:
        chosen = {label: names for label, names in payload["next"].items() if label in measured}
        numbers = {i: tuple(names) for i, names in enumerate(chosen.values())}
        hit = {i for i, label in enumerate(chosen) if label in hits}
        credit = credited(credit, numbers, hit)
    return credit


def _places(pool: Pool) -> dict[str, int]:
    return {label_of(c): i for i, c in enumerate(pool.candidates)}


def _mean(wells: Sequence[tuple[float, float]]) -> Measured:
    values, readings = np.array(wells).T
    n = len(values)
    se = None if n == 1 else float(np.std(values, ddof=1) / np.sqrt(n))
    return Measured(float(np.mean(values)), float(np.mean(readings)), se, n)


def _coverage(
    pool: Pool, places: Mapping[str, int], measured: Mapping[str, Measured], known: Sequence[str]
) -> float | None:
    inside = n = 0
    for label in known:
        low, high = pool.scores[places[label]].interval
        # Where all effects of a perturbation are shrunken to nothing, nothing is claimed of its
        # score: an interval without width is none, and can neither hold nor miss.
        if high - low <= NO_WIDTH:
            continue
        n += 1
        slack = 1.96 * (measured[label].se or 0.0) + 1e-6
        inside += low - slack <= measured[label].value <= high + slack
    return inside / n if n else None


def _enrichment(predicted: Floats, hit: Any) -> float | None:
    if len(predicted) < 4 or not hit.any():
        return None
    better = np.argsort(-predicted, kind="stable")[: len(predicted) // 2]
    return float(hit[better].mean() / hit.mean())


def _standard(column: Floats) -> Floats:
    spread = float(column.std())
    return (column - column.mean()) / spread if spread > 0 else column * 0.0
