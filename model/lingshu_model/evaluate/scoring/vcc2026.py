"""The six metrics of the Virtual Cell Challenge 2026: the `vcc2026` preset of `cell-eval2` 0.20.0.

Counts only. The expression metrics compare groups' log bulks (`jackknife.log_bulk`); the others
compare rank-sum tests of ln(1 + counts per million), with fold changes of mean counts per million,
over the genes whose control exceeds 5 per million, Benjamini-Hochberg over these, significant
below 0.05. A perturbation's own gene never counts. Each metric's definition stands at its
function. Knows nothing of baselines.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from lingshu_model.evaluate.scoring import directions, expression
from lingshu_model.evaluate.scoring.cells import Floats, Matrix, Side, doubled, gene_sums
from lingshu_model.evaluate.scoring.directions import Differential
from lingshu_model.evaluate.scoring.jackknife import log_bulk, variance
from lingshu_model.evaluate.scoring.normal import (
    PerMillion,
    mean_per_million,
    order_log1p_per_million,
)
from lingshu_model.evaluate.scoring.ranksum import rank_sums
from lingshu_model.evaluate.scoring.threads import each
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
class Group:
    """What is made of the cells of one condition.

    Attributes:
        bulk: log bulk, [genes].
        noise: its jackknife variance.
        mean: mean counts per million, [genes].
    """

    bulk: Floats
    noise: float
    mean: Floats

    @classmethod
    def of(cls, cells: Matrix) -> "Group":
        """Return a condition's."""
        cells = doubled(cells)
        return cls(log_bulk(gene_sums(cells)), variance(cells), mean_per_million(cells))


@dataclass(frozen=True)
class Control:
    """A control, worked out once for every side that is set against it."""

    group: Group
    expression: PerMillion


@dataclass(frozen=True)
class Profile:
    """One side against a control, ready to be compared.

    Attributes:
        side: whose cells.
        control: the control.
        bulk: log bulk of each perturbation, [perturbations, genes].
        noise: jackknife variance of each, [perturbations].
        tests: of each against the control.
    """

    side: Side
    control: Control
    bulk: Floats
    noise: Floats
    tests: Differential


def profile(side: Side, control: Matrix | Control | None = None) -> Profile:
    """Return a side against its own control, or another: the preset's is always the real one."""
    groups = list(side.groups())
    if isinstance(control, Control):
        made = each(Group.of, groups)
    else:
        cells = side.control if control is None else control
        first, *made = each(Group.of, [cells, *groups])
        control = Control(first, PerMillion.of(cells))
    return Profile(
        side=side,
        control=control,
        bulk=np.stack([group.bulk for group in made]),
        noise=np.array([group.noise for group in made]),
        tests=_tests(side, control, np.stack([group.mean for group in made])),
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
    truth = profile(real)
    return compare(truth, profile(predicted, truth.control), targets)


def compare(real: Profile, predicted: Profile, targets: Targets | None = None) -> Scores:
    """Return what `score` does of two profiles, each against the control it was made with."""
    names = real.side.names
    own = own_columns(real.side, targets)
    errors = expression.errors(real.bulk, real.noise, predicted.bulk, predicted.noise, own)
    control = real.control.group
    sizes = expression.distances(real.bulk, real.noise, control.bulk, control.noise, own)
    changes = real.bulk - control.bulk, predicted.bulk - predicted.control.group.bulk
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


def _tests(side: Side, control: Control, means: Floats) -> Differential:
    mean = control.group.mean
    tested = mean > LEAST_PER_MILLION
    usual, ordered = order_log1p_per_million([control.expression, side.perturbed])
    found = rank_sums(usual, ordered, side.bounds)
    adjusted = np.ones_like(found.p)
    if tested.any():
        adjusted[:, tested] = each(false_discovery_control, found.p[:, tested])
    fold = np.log2((means + PSEUDOCOUNT) / (mean + PSEUDOCOUNT))
    return Differential(tested, fold, found.p, adjusted, found.u)
