"""Whether moved cells deliver the effect of every condition, within the bounds of the protocol."""

from dataclasses import dataclass

import numpy as np

from benchmarks.any_data.predictors import MOVED, SEEN, MovedCells, Priors, pearson
from benchmarks.any_data.sets import Cells, Judged
from lingshu_model.effects.moments import cell_totals, expression_levels

SURE = 0.05
"""Local false sign rate below which a gene's change is certain."""
FEWEST = 3
SLOPES = (0.9, 1.1)
CORRELATION = 0.95
LIBRARIES = (0.9, 1.1)
RUNAWAY = 0.25


@dataclass(frozen=True)
class Fitness:
    """How moved cells of a condition compare with its target.

    Attributes:
        condition: the perturbation.
        context: where.
        certain: genes whose change is certain.
        slope: of the delivered change on the target over these; None with fewer than three.
        pearson: likewise.
        library: library size over that of the control cells.
        target_library: what it was to be: 1, or what the perturbed cells have.
        runaway: largest distance of a gene from its target beyond two standard errors.
        reasons: bounds that are not kept; empty = fit.
    """

    condition: str
    context: str
    certain: int
    slope: float | None
    pearson: float | None
    library: float
    target_library: float
    runaway: float
    reasons: tuple[str, ...]


def fitness(train: Cells, priors: Priors) -> list[Fitness]:
    """Return the fitness of every condition in every context of the training cells."""
    predictor = MovedCells().fit(train, SEEN, priors)
    m = train.measured
    return [
        _fitness(predictor, condition, context)
        for condition, context in zip(m.conditions, m.contexts, strict=True)
    ]


def _fitness(predictor: MovedCells, condition: str, context: str) -> Fitness:
    none = np.zeros(0)
    judged = Judged(condition, context, "", none, none)
    target = predictor.posterior(judged)
    moved, control = predictor.cells(judged, MOVED)
    difference = expression_levels(moved).toarray() - expression_levels(control).toarray()
    delivered = difference.mean(axis=0)
    error = difference.std(axis=0, ddof=1) / np.sqrt(len(difference))
    runaway = float((np.abs(delivered - target.mean) - 2 * error).max().clip(min=0))
    library = float(cell_totals(moved).sum() / cell_totals(control).sum())
    request = predictor.library(judged)
    sure = np.flatnonzero(target.lfsr < SURE)
    slope = correlation = None
    if len(sure) >= FEWEST:
        wanted, got = target.mean[sure], delivered[sure]
        slope, correlation = float(got @ wanted / (wanted @ wanted)), pearson(got, wanted)
    reasons = []
    if slope is not None and not SLOPES[0] <= slope <= SLOPES[1]:
        reasons.append(f"slope {slope:.2f}")
    if correlation is not None and correlation < CORRELATION:
        reasons.append(f"Pearson {correlation:.2f}")
    if not any(
        LIBRARIES[0] <= library / library_target <= LIBRARIES[1]
        for library_target in (1.0, request)
    ):
        reasons.append(f"library {library:.2f}")
    if runaway > RUNAWAY:
        reasons.append(f"a gene {runaway:.2f} from its target")
    return Fitness(
        condition, context, len(sure), slope, correlation, library, request, runaway, tuple(reasons)
    )
