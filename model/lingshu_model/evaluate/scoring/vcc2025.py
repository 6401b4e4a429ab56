"""The metrics of the Virtual Cell Challenge 2025, as `cell-eval` 0.8.2 with `pdex` 0.3.0 has them.

Every cell is scaled to the median total of its side (control included) and log1p-transformed; each
side's changes are against its own control. Differential expression is the Wilcoxon rank-sum test
with Benjamini-Hochberg over the genes of a perturbation, significant below 0.05; fold changes are
of geometric means, without a pseudocount, so a gene expressed on one side only has an infinite
one. Numbers that decide an order are rounded to float32 where the reference rounds them.

Equal absolute fold changes are ranked in the order of the genes; the reference's order among
them is that of an unstable sort. Knows nothing of how the cells were made.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import false_discovery_control, rankdata

from lingshu_model.evaluate.scoring.cells import Floats, Matrix, Side, gene_sums
from lingshu_model.evaluate.scoring.normal import median_log1p, order_float32
from lingshu_model.evaluate.scoring.ranksum import rank_sums
from lingshu_model.evaluate.scoring.threads import each
from lingshu_model.evaluate.scoring.tidy import Scores, mean, named

Scale = Literal["counts", "log1p"]
LEVEL = np.float32(0.05)
LOWEST = 1e-10
"""Adjusted p below this count as this in the precision-recall curve."""
Singles = NDArray[np.float32]
HIGHER = {
    "overlap_at_N": True,
    "discrimination_score_l1": True,
    "mae": False,
    "de_spearman_sig": True,
    "de_spearman_lfc_sig": True,
    "pr_auc": True,
    "pearson_delta": True,
}
"""The reference's seven metrics, and whether more is better."""
PAPER_PDS = "pds_l1_paper"


@dataclass(frozen=True)
class Profile:
    """One side's means and tests, [perturbations, genes] unless said.

    Attributes:
        mean: mean log1p expression.
        control: the control's, [genes].
        fold: log2 fold change against the control.
        p: two-sided p of the rank-sum test.
        adjusted: the same, adjusted.
        u: Mann-Whitney U of the perturbed cells.
    """

    mean: Singles
    control: Singles
    fold: Singles
    p: Floats
    adjusted: Singles
    u: Floats

    @property
    def change(self) -> Singles:
        """Mean log1p expression less the control's."""
        return self.mean - self.control

    @property
    def significant(self) -> NDArray[np.bool_]:
        """Which genes are."""
        return self.adjusted < LEVEL


def profile(side: Side, scale: Scale = "counts") -> Profile:
    """Return a side's means and tests; `log1p` cells are taken as they are."""
    control, perturbed = side.control, side.perturbed
    if scale == "counts":
        control, perturbed = median_log1p([control, perturbed])
    usual_order, order = each(order_float32, [control, perturbed])
    found = rank_sums(usual_order, order, side.bounds)
    (center, usual), *means = each(_means, [control, *side.groups(perturbed)])
    mean, geometric = (np.stack(parts) for parts in zip(*means, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        fold = np.log2(geometric / usual)
    return Profile(
        mean=mean,
        control=center,
        fold=np.nan_to_num(fold, nan=0.0, posinf=np.inf, neginf=-np.inf).astype(np.float32),
        p=found.p,
        adjusted=np.stack(each(_adjusted, found.p)),
        u=found.u,
    )


def score(real: Side, predicted: Side, scale: Scale = "counts") -> Scores:
    """Return the seven metrics, and the discrimination score as the paper scales it.

    `pds_l1_paper` is 1 − 2 rank / n with the target gene left in: 0 at random, where
    `discrimination_score_l1`, 1 − rank / n without it, is about 0.5.
    """
    return compare(real, profile(real, scale), profile(predicted, scale))


def compare(side: Side, real: Profile, predicted: Profile) -> Scores:
    """Return what `score` does of two profiles, `side` saying what rows and columns are."""
    names = side.names
    ranks, paper = _ranks(side, real, predicted)
    by_metric = {
        "overlap_at_N": named(names, _overlaps(real, predicted)),
        "discrimination_score_l1": named(names, 1 - ranks / len(names)),
        PAPER_PDS: named(names, 1 - 2 * paper / len(names)),
        "mae": named(names, _absolute_error(real, predicted)),
        "de_spearman_sig": dict.fromkeys(names, _count_correlation(real, predicted)),
        "de_spearman_lfc_sig": _fold_correlations(names, real, predicted),
        "pr_auc": named(names, _precision(real, predicted)),
        "pearson_delta": named(names, _delta_correlation(real, predicted)),
    }
    return Scores(by_metric, {name: mean(values) for name, values in by_metric.items()})


def against_baseline(user: dict[str, float], baseline: dict[str, float]) -> dict[str, float]:
    """Return each metric's relative gain over a baseline, never below 0, and their mean.

    Gain is (user − baseline) / (1 − baseline) where more is better and 1 − user / baseline where
    less is; an undefined one is 0.
    """
    gains: dict[str, float] = {}
    for name, higher in HIGHER.items():
        u, b = np.float64(user[name]), np.float64(baseline[name])
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = (u - b) / (1 - b) if higher else 1 - u / b
        gains[name] = 0.0 if np.isnan(gain) else max(float(gain), 0.0)
    return gains | {"avg_score": mean(gains)}


def _means(cells: Matrix) -> tuple[Singles, Floats]:
    """Return mean log1p expression, and geometric means of counts.

    The latter are rounded as float32 sums and exponentials round them.
    """
    mean_log = np.asarray(cells.mean(axis=0), np.float64).ravel()
    geometric = np.expm1(mean_log).astype(np.float32).astype(np.float64)
    return (gene_sums(cells) / cells.shape[0]).astype(np.float32), geometric


def _adjusted(p: Floats) -> Singles:
    return np.asarray(false_discovery_control(p), np.float32)


def _overlaps(real: Profile, predicted: Profile) -> Floats:
    """Return the share of the k real significant genes among the k strongest predicted ones."""
    rows = zip(real.significant, predicted.significant, np.abs(predicted.fold), strict=True)
    return np.array([_overlap(*row) for row in rows])


def _overlap(wanted: NDArray[np.bool_], called: NDArray[np.bool_], size: Singles) -> float:
    k = int(wanted.sum())
    genes = np.flatnonzero(called)
    strongest = genes[np.argsort(-size[genes], kind="stable")][:k]
    return float(wanted[strongest].sum()) / k if k else 0.0


def _ranks(side: Side, real: Profile, predicted: Profile) -> tuple[Floats, Floats]:
    """Return how many real changes are nearer to each predicted one than its own, in L1.

    First without the perturbation's own gene, then with it.
    """
    truth, guess = real.change.astype(np.float64), predicted.change.astype(np.float64)
    whole = np.asarray(cdist(guess, truth, "cityblock"), np.float64)
    rest = whole.copy()
    column = {gene: i for i, gene in enumerate(side.genes)}
    for i, name in enumerate(side.names):
        if name in column:
            own = column[name]
            rest[i] -= np.abs(guess[i, own] - truth[:, own])
    return _places(rest), _places(whole)


def _places(distances: Floats) -> Floats:
    """Return the place of the diagonal in each row's order."""
    order = np.argsort(distances, axis=1)
    return np.argmax(order == np.arange(len(order))[:, None], axis=1).astype(np.float64)


def _absolute_error(real: Profile, predicted: Profile) -> Floats:
    return np.abs(predicted.mean.astype(np.float64) - real.mean).mean(axis=1)


def _count_correlation(real: Profile, predicted: Profile) -> float:
    """Return Spearman of the numbers of significant genes, where the real cells have any."""
    counts = real.significant.sum(axis=1)
    some = counts > 0
    if not some.any():
        return 1.0
    return _spearman(counts[some], predicted.significant.sum(axis=1)[some])


def _fold_correlations(names: list[str], real: Profile, predicted: Profile) -> dict[str, float]:
    """Return Spearman of the fold changes of genes significant in the real cells."""
    return {
        name: _spearman(real.fold[i, called], predicted.fold[i, called])
        for i, (name, called) in enumerate(zip(names, real.significant, strict=True))
        if called.any()
    }


def _spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    return _pearson(rankdata(a), rankdata(b)) if len(a) > 1 else float("nan")


def _delta_correlation(real: Profile, predicted: Profile) -> Floats:
    pairs = zip(real.change, predicted.change, strict=True)
    return np.array([_pearson(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs])


def _pearson(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    # No BLAS: its bits may depend on how many threads it takes.
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 0 else float("nan")


def _precision(real: Profile, predicted: Profile) -> Floats:
    """Return the average precision of the predicted adjusted p for the real significant genes."""
    bounded = np.clip(predicted.adjusted.astype(np.float64), np.float32(LOWEST), 1.0)
    confidence = (-np.log10(bounded)).astype(np.float32)
    return np.array(
        [_average_precision(*pair) for pair in zip(real.significant, confidence, strict=True)]
    )


def _average_precision(wanted: NDArray[np.bool_], confidence: Singles) -> float:
    """Return Σ (recall gained) × precision down the distinct values; NaN with one class only."""
    if wanted.all() or not wanted.any():
        return float("nan")
    order = np.argsort(-confidence, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)
    found = np.cumsum(wanted[order])[ends]
    gained = np.diff(found, prepend=0) / found[-1]
    return float(gained @ (found / (ends + 1)))
