"""The six metrics of the Virtual Cell Challenge 2026: the `vcc2026` preset of `cell-eval2` 0.20.0.

Counts only. The expression metrics compare groups' log bulks (`jackknife.log_bulk`); the others
compare rank-sum tests of ln(1 + counts per million), with fold changes of mean counts per million,
over the genes whose control exceeds 5 per million, Benjamini-Hochberg over these, significant
below 0.05. A perturbation's own gene never counts. Each metric's definition stands at its
function. Knows nothing of baselines.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from lingshu_model.evaluate.scoring import directions, expression
from lingshu_model.evaluate.scoring.cells import Floats, Matrix, Side, gene_sums
from lingshu_model.evaluate.scoring.directions import Differential
from lingshu_model.evaluate.scoring.jackknife import log_bulk, variance
from lingshu_model.evaluate.scoring.normal import mean_per_million, order_log1p_per_million
from lingshu_model.evaluate.scoring.ranksum import rank_sums
from lingshu_model.evaluate.scoring.tidy import Scores, mean_of_defined, named

PDS = "pds_cosine"
ERROR = "expr_mse_unbiased_capped_norm"
YIELD = "de_wilcoxon_direction_fidelity_yield_raw"
REACH = "de_wilcoxon_direction_reach_raw"
JACCARD = "de_wilcoxon_sig_jaccard"
FOLD_ERROR = "de_wilcoxon_lfc_nmae"
MEMBERS = (PDS, ERROR, YIELD, REACH, JACCARD, FOLD_ERROR)
NUMERATOR, DENOMINATOR = "expr_mse_unbiased_capped", "expr_distance_unbiased"
LEAST_PER_MILLION = 5.0
PSEUDOCOUNT = 1e-9
Targets = Mapping[str, str | None]


@dataclass(frozen=True)
class Profile:
    """One side against a control, ready to be compared.

    Attributes:
        side: whose cells.
        reference: the control's cells.
        bulk: log bulk of each perturbation, [perturbations, genes].
        noise: jackknife variance of each, [perturbations].
        tests: of each against the control.
    """

    side: Side
    reference: Matrix
    bulk: Floats
    noise: Floats
    tests: Differential

    @cached_property
    def control(self) -> Floats:
        """The control's log bulk, [genes]."""
        return log_bulk(gene_sums(self.reference))

    @cached_property
    def control_noise(self) -> float:
        """The control's jackknife variance."""
        return variance(self.reference)


def profile(side: Side, control: Matrix | None = None) -> Profile:
    """Return a side against its own control, or another: the preset's is always the real one."""
    reference = side.control if control is None else control
    groups = list(side.groups())
    return Profile(
        side=side,
        reference=reference,
        bulk=log_bulk(np.stack([gene_sums(group) for group in groups])),
        noise=np.array([variance(group) for group in groups]),
        tests=_tests(side, reference),
    )


def score(real: Side, predicted: Side, targets: Targets | None = None) -> Scores:
    """Return the six metrics.

    Args:
        real: real cells, as counts.
        predicted: predicted cells of the same perturbations, as counts; fractions are allowed.
        targets: each perturbation's own gene, or None where it has none. One not named here has
            the gene of its own name, if that is measured.

    Raises:
        ValueError: no perturbation has a measured gene of its own, and none is said to have none.
    """
    return compare(profile(real), profile(predicted, real.control), targets)


def compare(real: Profile, predicted: Profile, targets: Targets | None = None) -> Scores:
    """Return what `score` does of two profiles, each against the control it was made with."""
    names = real.side.names
    own = own_columns(real.side, targets)
    errors = expression.errors(real.bulk, real.noise, predicted.bulk, predicted.noise, own)
    sizes = expression.distances(real.bulk, real.noise, real.control, real.control_noise, own)
    changes = real.bulk - real.control, predicted.bulk - predicted.control
    calls = directions.Calls.of(real.side.genes, real.tests, predicted.tests, own)
    by_metric = {
        PDS: named(names, expression.discrimination(*changes, own)),
        NUMERATOR: named(names, errors),
        DENOMINATOR: named(names, sizes),
        YIELD: named(names, directions.fidelity_yield(calls)),
        REACH: named(names, directions.reach(calls)),
        JACCARD: named(names, directions.jaccard(calls)),
        FOLD_ERROR: directions.defined(names, directions.fold_error(calls)),
    }
    aggregate = {name: mean_of_defined(values) for name, values in by_metric.items()}
    return Scores(by_metric, aggregate | {ERROR: expression.ratio_of_sums(errors, sizes)})


def own_columns(side: Side, targets: Targets | None) -> NDArray[np.int64]:
    """Return the column of each perturbation's own gene, −1 where it has none or none is measured.

    Raises:
        ValueError: no column is found and no perturbation is said to have none.
    """
    column = {gene: i for i, gene in enumerate(side.genes)}
    wanted = {name: (targets or {}).get(name, name) for name in side.names}
    found = [-1 if gene is None else column.get(gene, -1) for gene in wanted.values()]
    if max(found) < 0 and None not in wanted.values():
        message = (
            f"no perturbation has a measured gene of its own: {', '.join(side.names[:5])}. "
            "Name their genes in `targets`, or None for those without one"
        )
        raise ValueError(message)
    return np.array(found)


def _tests(side: Side, control: Matrix) -> Differential:
    mean = mean_per_million(control)
    tested = mean > LEAST_PER_MILLION
    ordered, perturbed = order_log1p_per_million([control, side.perturbed])
    found = rank_sums(ordered, perturbed, side.bounds)
    means = np.stack([mean_per_million(group) for group in side.groups()])
    adjusted = np.ones_like(found.p)
    if tested.any():
        adjusted[:, tested] = false_discovery_control(found.p[:, tested], axis=1)
    fold = np.log2((means + PSEUDOCOUNT) / (mean + PSEUDOCOUNT))
    return Differential(tested, fold, found.p, adjusted, found.u)
