"""Doubles predicted from published single effects of Norman 2019 (K562, CRISPR activation).

There are no cells: pooled UMI counts, recovered from the published fold changes, give each
condition's change of ln(1 + counts per 10,000) and its counting noise. A fifth of the doubles is
left out, five times.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.any_data.sets import FIFTHS, Floats, generator
from benchmarks.combinations.norman import Recovered, read
from lingshu_model.contracts.levels import CP10K
from lingshu_model.effects import (
    Range,
    fit_prior,
    fit_saturation,
    pooled_prior,
    posterior,
    together,
)

SIZE, REAL_DEPTH = 2.0, 12_000.0
"""Negative binomial size and counts per cell that counting noise is reckoned with."""


def changes(result: Recovered) -> tuple[Floats, Floats, Floats]:
    """Return changes and squared standard errors [conditions, genes], and control levels [genes].

    The noise of control's 10^8 counts is left out; a pooled count k of N has the variance
    k + k^2 / (size cells), by the delta method on ln(1 + 10,000 k / N).
    """
    share = result.umi / result.total[:, None]
    control = np.log1p(result.control_cpm / 1e6 * CP10K)
    cells = result.total[:, None] / REAL_DEPTH
    variance = share / result.total[:, None] + share**2 / (SIZE * cells)
    slope = CP10K / (1.0 + CP10K * share)
    half = slope**2 * 0.5 / result.total[:, None] ** 2
    return np.log1p(CP10K * share) - control, slope**2 * variance + half, control


def folds(data: Path) -> Iterator[tuple[str, list[tuple[str, Floats, dict[str, Floats]]]]]:
    """Yield each fold's doubles: name, truth, and what every predictor says."""
    result = read(data / "effects" / "norman2019_k562_crispra.npz")
    change, noise, control = changes(result)
    row = {condition: i for i, condition in enumerate(result.conditions)}
    pairs = [d for d in result.doubles if all((part,) in row for part in d)]
    place = {gene: i for i, gene in enumerate(result.genes)}
    pooled = pooled_prior(change, noise)
    shrunken = [
        posterior(c, n, fit_prior(c, n, pooled)) for c, n in zip(change, noise, strict=True)
    ]
    part = np.zeros(len(pairs), int)
    part[generator(6).permutation(len(pairs))] = np.arange(len(pairs)) % FIFTHS
    for fold in range(FIFTHS):
        trained = [p for p, k in zip(pairs, part, strict=True) if k != fold]
        singles = [[row[(t,)] for t in pair] for pair in trained]
        doubles = [row[pair] for pair in trained]
        saturation = fit_saturation(
            np.stack([change[s].sum(axis=0) for s in singles]),
            change[doubles],
            np.stack([noise[s].sum(axis=0) for s in singles]),
            [2] * len(singles),
        )
        known = [row[(s,)] for s in result.singles] + doubles
        value_range = Range.of(np.stack([shrunken[i].mean for i in known]), control)
        judged = []
        for pair in (p for p, k in zip(pairs, part, strict=True) if k == fold):
            shared = [row[(t,)] for t in pair]
            combined = together(
                [shrunken[i] for i in shared],
                saturation,
                value_range,
                [place.get(t, -1) for t in pair],
            )
            predicted = {
                "effects": combined.effect.mean,
                "no_change": np.zeros_like(control),
                "mean_shift": change[doubles].mean(axis=0),
                "additive": change[shared].sum(axis=0),
            }
            judged.append(("+".join(pair), change[row[pair]], predicted))
        yield f"fifth-{fold}", judged
