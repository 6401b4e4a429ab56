"""Errors of predictions of held-out contrasts by size, and the calibration of intervals and signs.

Errors of every contrast and fold are summed in bins of |predicted change| and of held-out cells.
The targets' genes are left out, since their change is the intervention itself; so are genes with
fewer than `FEWEST_COUNTS` held-out cells that have the gene, whose difference of means has no
normal distribution (with four such cells no interval of 95 % can be missed). With p the predicted
and o the held-out change of a gene, s^2 the squared standard error of o and sd that of a new
experiment by factors fitted to other contrasts (`finishing.error_model`),

    rms     root mean square of p - o; includes the noise of o
    error   without that noise: square root of mean (p - o)^2 - s^2, where the mean is at least its
            standard error over contrasts
    covered share of genes with |p - o| below 1.96 sqrt(sd^2 + s^2)
    slope   of o on p through the origin

Of called genes (lfsr below `CALLED`) the expected number of wrong signs is the sum of their lfsr.
The observed number is corrected for noise: a gene with the right sign is observed with the other
sign with probability q = Phi(-|p| / s), so the number is n sum(observed wrong - q) / sum(1 - 2 q).
That takes true changes to be as large as predicted ones, and counts too many where they are
smaller. So the signs that are seen are compared with what the wider distribution says of them, too:

    seen_wrong_expected = sum p0 / 2 + (1 - p0) Phi(-|p| / sqrt(sd^2 + s^2))
Standard errors are those over contrasts: genes and folds of one contrast are not independent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts.posterior import Floats, Posterior, normal_tail
from lingshu_model.evaluate.rows import HeldOut
from lingshu_model.finishing.error_model import FEWEST, Judged, fitted, left_out, thinned

EDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Lower edges of the bins of |predicted change|, log1p_cp10k; the last has no upper edge."""
CELLS = (0, 20, 50, 100, 200, 500)
"""Lower edges of the bins of held-out cells of the arm with fewer; the last has no upper edge."""
CALLED = 0.05
WEAK = 10
"""Called genes of a contrast, mean over folds, below which it is weak."""
NORMAL = 1.959964
"""Half width of a 95 % interval, in standard deviations."""
FEWEST_COUNTS = 5
"""Held-out cells with a gene below which the gene is not judged."""


@dataclass(frozen=True)
class _Sums:
    """The sums of one contrast in one fold.

    Attributes:
        judged: the contrast.
        bins: by |predicted change|, [statistics, bins], in the order of `_BINS`.
        called: [statistics], in the order of `_CALLED`.
    """

    judged: Judged
    bins: Floats
    called: Floats


_BINS = ("n", "squared", "noise", "product", "predicted", "covered", "covered_posterior")
_CALLED = (
    *("n", "expected", "product", "predicted", "wrong", "by_noise", "informative"),
    "seen_expected",
)


def tally(
    held_out: HeldOut,
    predicted: Posterior,
    variance: Floats | None = None,
    detected: NDArray[np.int64] | None = None,
    most: int = 1_000_000,
) -> Judged:
    """Return what is judged of a held-out contrast.

    Args:
        held_out: the contrast.
        predicted: posterior of its changes, [genes].
        variance: of each gene between cells, [genes]; 0 by default.
        detected: held-out cells of both arms that have the gene, [genes]; enough by default.
        most: genes that are kept, evenly spaced.
    """
    targets = {each["target"] for each in held_out.interventions}
    # A gene that is not measured is NaN on either side.
    known = np.isfinite(held_out.observed) & np.isfinite(predicted.mean)
    known &= ~np.isin(np.asarray(held_out.genes), [*targets])
    enough = known if detected is None else known & (detected >= FEWEST_COUNTS)
    # Evenly spaced over the panel: genes of neighbouring columns are no sample of all.
    kept = thinned(np.flatnonzero(enough), most)
    values = np.zeros(len(known)) if variance is None else variance
    return Judged(
        (held_out.population, held_out.name, held_out.tier),
        held_out.fold,
        int(min(held_out.n_cells[0], held_out.n_cells[1])),
        Posterior(predicted.mean[kept], predicted.sd[kept], predicted.lfsr[kept]),
        held_out.observed[kept],
        held_out.noise[kept],
        values[kept],
        int(known.sum() - enough.sum()),
    )


def certainty(judged: Sequence[Judged], tier: str) -> dict[str, Any] | None:
    """Return the errors by size and the calibration of a tier; None where nothing was judged."""
    mine = [j for j in judged if j.contrast[2] == tier]
    if not any(len(j.observed) for j in mine):
        return None
    # Each contrast by factors fitted to others; the stored factors are those of all.
    sums = [_sums(j, model.widened(j.predicted, j.variance)) for j, model in left_out(mine)]
    model = fitted(mine)
    return {
        "error_by_size": [
            row
            for i, (low, high) in enumerate(zip(EDGES, (*EDGES[1:], None), strict=True))
            if (row := _bin(sums, low, high, lambda s, i=i: s.bins[:, i])) is not None
        ],
        "coverage_by_cells": [
            row
            for low, high in zip(CELLS, (*CELLS[1:], None), strict=True)
            if (row := _by_cells(sums, low, high)) is not None
        ],
        "error_model": model and model.record,
        "calibration": _calibration(sums),
        "units": "log1p_cp10k",
    }


def _sums(judged: Judged, wider: Posterior) -> _Sums:
    """Return the sums of a contrast whose changes in a new experiment are `wider`."""
    p, o, s2 = wider.mean, judged.observed, judged.noise
    squared = (p - o) ** 2
    # [genes], the bin of each; EDGES[0] is 0, so every gene has one.
    place = np.searchsorted(EDGES, np.abs(p), side="right") - 1
    # Both with the noise of the held-out change, which an interval of the truth does not cover.
    covered = [squared <= NORMAL**2 * (sd**2 + s2) for sd in (wider.sd, judged.predicted.sd)]
    # In the order of `_BINS`, [genes] each, summed by bin.
    columns = (np.ones_like(p), squared, s2, p * o, p**2, *(c.astype(float) for c in covered))
    bins = np.stack([np.bincount(place, c, minlength=len(EDGES)) for c in columns]).astype(
        np.float64
    )
    sure = wider.lfsr < CALLED
    # From here on called genes only.
    p, o, s2 = p[sure], o[sure], s2[sure]
    # q of the module's formula, for true changes as large as predicted ones.
    by_noise = normal_tail(np.abs(p) / np.sqrt(np.maximum(s2, 1e-12)))
    wrong = (p * o < 0).astype(float)
    lfsr, sd = wider.lfsr[sure], wider.sd[sure]
    tail = normal_tail(np.abs(p) / np.maximum(sd, 1e-12))
    # Mass at no change: what the lfsr has beyond the tail.
    p0 = np.clip((lfsr - tail) / (1 - tail), 0.0, 1.0)
    seen = p0 / 2 + (1 - p0) * normal_tail(np.abs(p) / np.sqrt(np.maximum(sd**2 + s2, 1e-24)))
    called = (
        # sum(1 - 2q): how much observed signs say of true ones, 1 each without noise.
        *(np.ones_like(p), lfsr, p * o, p**2, wrong, by_noise, 1 - 2 * by_noise),
        seen,
    )
    return _Sums(judged, bins, np.array([float(c.sum()) for c in called]))


def _bin(
    sums: Sequence[_Sums], low: float, high: float | None, of: Callable[[_Sums], Floats]
) -> dict[str, Any] | None:
    here = [s for s in sums if of(s)[0] > 0]
    if not here:
        return None
    by_contrast = _by_contrast(here, of)  # [contrasts, statistics]
    n, squared, noise, product, predicted, *_ = by_contrast.sum(axis=0)
    row: dict[str, Any] = {
        "from": low,
        "to": high,
        "n": int(n),
        "n_contrasts": len(by_contrast),
        "n_folds": len({s.judged.fold for s in here}),
        "error": None,
        "rms": float(np.sqrt(squared / n)),
        "noise": float(np.sqrt(noise / n)),
        "slope": float(product / predicted) if predicted > 0 else None,
        **_covered(by_contrast),
    }
    if len(by_contrast) >= FEWEST:
        # Mean of (p - o)^2 - s^2 over genes, all contrasts together.
        excess = (squared - noise) / n
        # An excess below its standard error (or 0) does not show that there is no error.
        spread = _clustered(by_contrast[:, 1] - by_contrast[:, 2], by_contrast[:, 0])
        row["error"] = float(np.sqrt(max(excess, spread)))
    return row


def _by_cells(sums: Sequence[_Sums], low: int, high: int | None) -> dict[str, Any] | None:
    here = [s for s in sums if low <= s.judged.cells and (high is None or s.judged.cells < high)]
    row = _bin(here, low, high, lambda s: s.bins.sum(axis=1))
    kept = ("from", "to", "n", "n_contrasts", "n_folds")
    if row is None:
        return None
    covered = {name: value for name, value in row.items() if name.startswith("covered")}
    return {name: row[name] for name in kept} | covered


def _covered(by_contrast: Floats) -> dict[str, float | None]:
    """Return coverage with its standard error, and that of the posterior sd alone."""
    n = by_contrast[:, 0]
    several = len(n) >= FEWEST
    return {
        # Columns 5 and 6 of `_BINS`: covered, and covered_posterior.
        "covered": float(by_contrast[:, 5].sum() / n.sum()),
        "covered_standard_error": _clustered(by_contrast[:, 5], n) if several else None,
        "covered_by_posterior": float(by_contrast[:, 6].sum() / n.sum()),
    }


def _calibration(sums: Sequence[_Sums]) -> dict[str, Any]:
    bins = _by_contrast(sums, lambda s: s.bins.sum(axis=1))
    called = _by_contrast(sums, lambda s: s.called)
    folds = _by_contrast(sums, lambda _: np.ones(1))[:, 0]
    # Mean over the folds of a contrast, since `called` is their sum.
    strong = called[:, 0] >= WEAK * folds
    return {
        "nominal": 0.95,
        **_covered(bins),
        "n": int(bins[:, 0].sum()),
        "n_rare": sum(s.judged.rare for s in sums),
        "n_contrasts": len(bins),
        "n_folds": len({s.judged.fold for s in sums}),
        "called_lfsr": CALLED,
        **_signs(called),
        "slope_of_called": _slope(called)[0],
        "slope_standard_error": _slope(called)[1],
        "strong": _part(called[strong]),
        "weak": _part(called[~strong]),
    }


def _part(called: Floats) -> dict[str, Any]:
    slope, error = _slope(called)
    n = int(called[:, 0].sum())
    return {"n_contrasts": len(called), "n_called": n, "slope": slope, "standard_error": error}


def _slope(called: Floats) -> tuple[float | None, float | None]:
    """Return the slope of held-out on predicted changes of called genes, and its error."""
    here = called[called[:, 3] > 0]
    if not len(here):
        return None, None
    slope = float(here[:, 2].sum() / here[:, 3].sum())
    several = len(here) >= FEWEST
    error = _clustered(here[:, 2] - slope * here[:, 3], here[:, 3]) if several else None
    return slope, error


def _signs(called: Floats) -> dict[str, Any]:
    """Return called genes, and their expected and observed wrong signs."""
    n, expected, _, _, wrong, by_noise, informative, seen = called.sum(axis=0).tolist()
    number = error = off = None
    if informative > 0:
        # Not below 0: fewer are seen wrong than noise alone explains.
        number = max((wrong - by_noise) / informative * n, 0.0)
        here = called[called[:, 0] > 0]
        if len(here) >= FEWEST:
            error = n * _clustered(here[:, 4] - here[:, 5], here[:, 6])
            off = n * _clustered(here[:, 4] - here[:, 7], here[:, 0])
    return {
        "n_called": int(n),
        "expected_wrong_signs": expected,
        "wrong_signs": number,
        "wrong_signs_standard_error": error,
        "seen_wrong": int(wrong),
        "seen_wrong_expected": seen,
        "seen_wrong_standard_error": off,
    }


def _by_contrast(sums: Sequence[_Sums], of: Callable[[_Sums], Floats]) -> Floats:
    """Return the sums over the folds of each contrast, [contrasts, statistics]."""
    totals: dict[tuple[str, str, str], Floats] = {}
    for each in sums:
        contrast = each.judged.contrast
        totals[contrast] = totals.get(contrast, 0.0) + of(each)
    return np.stack([*totals.values()])


def _clustered(numerator: Floats, weight: Floats) -> float:
    """Return the standard error of the ratio sum(numerator) / sum(weight) over contrasts.

    Linearised (delta method); genes of one contrast are correlated, so contrasts are the units.
    """
    k, total = len(weight), float(weight.sum())
    rest = numerator - numerator.sum() / total * weight
    # Few contrasts: the sum of squares about a fitted ratio is too small by (k - 1) / k.
    return float(np.sqrt(k / (k - 1) * (rest**2).sum()) / total)
