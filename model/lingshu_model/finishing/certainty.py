"""Errors of predictions of held-out contrasts by size, and the calibration of their sd and lfsr.

Errors of every contrast and fold are summed in bins of |predicted change|. The targets' own genes
are left out, since their change is the intervention itself. With p the predicted and o the held-out
change of a gene, s^2 the squared standard error of o and sd that of the posterior,

    rms     root mean square of p - o; includes the noise of o
    error   without that noise: square root of mean (p - o)^2 - s^2, where the mean is at least its
            standard error over contrasts
    covered share of genes with |p - o| below 1.96 sqrt(sd^2 + s^2)
    slope   of o on p through the origin

Of called genes (lfsr below `CALLED`) the expected number of wrong signs is the sum of their lfsr.
The observed number is corrected for noise: a gene with the right sign is observed with the other
sign with probability q = Phi(-|p| / s), so the number is n sum(observed wrong - q) / sum(1 - 2 q).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lingshu_model.contracts.posterior import Floats, Posterior, normal_tail
from lingshu_model.evaluate.rows import HeldOut

EDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Lower edges of the bins of |predicted change|, log1p_cp10k; the last has no upper edge."""
CALLED = 0.05
NORMAL = 1.959964
"""Half width of a 95 % interval, in standard deviations."""
FEWEST = 3
"""Contrasts below which an error is not estimated."""


@dataclass(frozen=True)
class Tally:
    """The sums of one contrast in one fold.

    Attributes:
        contrast: population, name and tier.
        fold: what was held out.
        bins: [statistics, bins], in the order of `_BINS`.
        called: [statistics], in the order of `_CALLED`.
    """

    contrast: tuple[str, str, str]
    fold: str
    bins: Floats
    called: Floats


_BINS = ("n", "squared", "noise", "product", "predicted", "covered")
_CALLED = ("n", "expected", "product", "predicted", "wrong", "by_noise", "informative")


def tally(held_out: HeldOut, predicted: Posterior) -> Tally:
    """Return the sums of a held-out contrast and its prediction, over genes."""
    targets = {each["target"] for each in held_out.interventions}
    is_target = np.array([gene in targets for gene in held_out.genes])
    known = np.isfinite(held_out.observed) & np.isfinite(predicted.mean) & ~is_target
    p, o, s2 = (x[known] for x in (predicted.mean, held_out.observed, held_out.noise))
    sd, lfsr = predicted.sd[known], predicted.lfsr[known]
    squared = (p - o) ** 2
    place = np.searchsorted(EDGES, np.abs(p), side="right") - 1
    covered = squared <= NORMAL**2 * (sd**2 + s2)
    # In the order of `_BINS`, [genes] each, summed by bin.
    columns = (np.ones_like(p), squared, s2, p * o, p**2, covered.astype(float))
    bins = np.stack([np.bincount(place, c, minlength=len(EDGES)) for c in columns]).astype(
        np.float64
    )
    sure = lfsr < CALLED
    p, o, s2 = p[sure], o[sure], s2[sure]
    by_noise = normal_tail(np.abs(p) / np.sqrt(np.maximum(s2, 1e-12)))
    wrong = (p * o < 0).astype(float)
    sums = (np.ones_like(p), lfsr[sure], p * o, p**2, wrong, by_noise, 1 - 2 * by_noise)
    called = np.array([float(c.sum()) for c in sums])
    contrast = (held_out.population, held_out.name, held_out.tier)
    return Tally(contrast, held_out.fold, bins, called)


def certainty(tallies: Sequence[Tally], tier: str) -> dict[str, Any] | None:
    """Return the errors by size and the calibration of a tier; None where nothing was judged."""
    mine = [t for t in tallies if t.contrast[2] == tier]
    if not mine:
        return None
    return {
        "error_by_size": [
            {"from": low, "to": high, **row}
            for i, (low, high) in enumerate(zip(EDGES, (*EDGES[1:], None), strict=True))
            if (row := _bin(mine, i)) is not None
        ],
        "calibration": _calibration(mine),
        "units": "log1p_cp10k",
    }


def _bin(tallies: Sequence[Tally], place: int) -> dict[str, Any] | None:
    here = [t for t in tallies if t.bins[0, place] > 0]
    if not here:
        return None
    sums = _by_contrast(here, {id(t): t.bins[:, place] for t in here})  # [contrasts, statistics]
    n, squared, noise, product, predicted, covered = sums.sum(axis=0)
    row: dict[str, Any] = {
        "n": int(n),
        "n_contrasts": len(sums),
        "n_folds": len({t.fold for t in here}),
        "error": None,
        "rms": float(np.sqrt(squared / n)),
        "noise": float(np.sqrt(noise / n)),
        "slope": float(product / predicted) if predicted > 0 else None,
        "covered": float(covered / n),
    }
    if len(sums) >= FEWEST:
        excess = (squared - noise) / n
        # An excess below its standard error (or 0) does not show that there is no error.
        spread = _clustered(sums[:, 1] - sums[:, 2], sums[:, 0])
        row["error"] = float(np.sqrt(max(excess, spread)))
    return row


def _calibration(tallies: Sequence[Tally]) -> dict[str, Any]:
    bins = np.sum([t.bins.sum(axis=1) for t in tallies], axis=0)
    whole = dict(zip(_BINS, bins.tolist(), strict=True))
    sums = _by_contrast(tallies, {id(t): t.called for t in tallies})
    called = dict(zip(_CALLED, sums.sum(axis=0).tolist(), strict=True))
    slope = slope_error = wrong = None
    if called["predicted"] > 0:
        slope = called["product"] / called["predicted"]
        if len(sums) >= FEWEST:
            slope_error = _clustered(sums[:, 2] - slope * sums[:, 3], sums[:, 3])
    if called["informative"] > 0:
        wrong = (called["wrong"] - called["by_noise"]) / called["informative"] * called["n"]
    return {
        "nominal": 0.95,
        "covered": whole["covered"] / max(whole["n"], 1.0),
        "n": int(whole["n"]),
        "n_contrasts": len(sums),
        "n_folds": len({t.fold for t in tallies}),
        "called_lfsr": CALLED,
        "n_called": int(called["n"]),
        "expected_wrong_signs": called["expected"],
        "wrong_signs": None if wrong is None else max(wrong, 0.0),
        "slope_of_called": slope,
        "slope_standard_error": slope_error,
    }


def _by_contrast(tallies: Iterable[Tally], values: Mapping[int, Floats]) -> Floats:
    """Return the sums over the folds of each contrast, [contrasts, statistics]."""
    sums: dict[tuple[str, str, str], Floats] = {}
    for t in tallies:
        sums[t.contrast] = sums.get(t.contrast, 0.0) + values[id(t)]
    return np.stack([*sums.values()])


def _clustered(numerator: Floats, weight: Floats) -> float:
    """Return the standard error of the ratio sum(numerator) / sum(weight) over contrasts.

    Linearised (delta method); genes of one contrast are correlated, so contrasts are the units.
    """
    k, total = len(weight), float(weight.sum())
    rest = numerator - numerator.sum() / total * weight
    return float(np.sqrt(k / (k - 1) * (rest**2).sum()) / total)
