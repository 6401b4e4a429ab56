"""The effect of a perturbation carried to a user's cells, by the stacked estimate.

The sources are the contexts in which the checkpoint was trained on cells of the perturbation:
posterior mean and variance of the change, and the mean level of their control cells. The target is
the mean level of the user's cells, on the scale of a whole transcriptome: their measured genes hold
a share of the counts of a cell, known from the training cells of the nearest context.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts import Cells, Checkpoint, Intervention
from lingshu_model.contracts.combining import Range, together
from lingshu_model.contracts.effects import CARRIED, COMBINATION, NoEffectError, StoredEffect
from lingshu_model.contracts.levels import CP10K
from lingshu_model.contracts.posterior import Posterior
from lingshu_model.effects.contexts import Carrier, Sources
from lingshu_model.effects.moments import Floats, Rows

LEAST_NOISE = 1e-6
"""Variance below which a posterior's is not taken, so that no context decides a gene alone."""


@dataclass(frozen=True)
class Target:
    """A user's cells as a context that effects are carried to.

    Attributes:
        control: mean log1p_cp10k, [genes]; NaN where not measured.
        variance: of the levels between cells, [genes].
        share: share of a cell's counts that the measured genes hold.
        nearest: the trained contexts, the most similar first, each with the Pearson correlation of
            mean levels over the genes that both measure.
    """

    control: Floats
    variance: Floats
    share: float
    nearest: Sequence[tuple[dict[str, str], float]]


def target_of(cells: Cells, checkpoint: Checkpoint) -> Target:
    """Return a user's cells as a target."""
    rows = matrix(cells)
    seen = [(i, e) for i, e in enumerate(checkpoint.config["seen"]) if not e["interventions"]]
    levels, _ = _levels(rows, 1.0, cells.measured)
    similar: list[tuple[float, int, dict[str, str]]] = []
    for i, entry in seen:
        similar.append((_pearson(levels, checkpoint.reference["mean_log1p_cp10k"][i]), i,
                        dict(entry["context"])))  # fmt: skip
    similar.sort(key=lambda item: -item[0])
    share = 1.0
    if similar:
        counts = np.nan_to_num(checkpoint.reference["mean_count"][similar[0][1]])
        share = float(counts[cells.measured].sum() / max(counts.sum(), 1e-12))
    # A share far below what the reference can tell is not extrapolated further.
    share = float(np.clip(share, 0.01, 1.0))
    control, variance = _levels(rows, share, cells.measured)
    return Target(control, variance, share, [(context, r) for r, _, context in similar])


def carried(
    checkpoint: Checkpoint, interventions: Sequence[Intervention], target: Target
) -> StoredEffect:
    """Return the effect of a perturbation in a user's cells.

    A combination that was not trained is the saturating sum of its carried parts.

    Raises:
        NoEffectError: the checkpoint stores no effects, or has no cells of a perturbation.
    """
    effects = checkpoint.effects
    if effects is None:
        message = (
            f"{checkpoint.name} stores no effects that could be carried to other cells: train a "
            "checkpoint with this version, or use one of format 2"
        )
        raise NoEffectError(message)
    if effects.measured_in(interventions):
        return _single(checkpoint, interventions, target)
    if len(interventions) == 1:
        item = interventions[0]
        message = (
            f"{checkpoint.name} was not trained on cells of {item.kind} of {item.target!r}: only "
            "effects that were measured in some context are carried to a user's cells"
        )
        raise NoEffectError(message)
    return _combination(checkpoint, interventions, target)


def matrix(cells: Cells) -> Rows:
    """Return counts as a sparse matrix of float64, [cells, genes]."""
    return sparse.csr_matrix(
        (cells.values[:].astype(np.float64), cells.indices[:], cells.indptr), cells.shape
    )


def with_rest(rows: Rows, share: float) -> Rows:
    """Return counts with a further column: the counts of the genes that were not measured.

    So that shares of a cell's counts are those of the whole transcriptome.
    """
    totals = np.asarray(rows.sum(axis=1)).ravel()
    rest = np.rint(totals * (1.0 / share - 1.0))
    return sparse.csr_matrix(sparse.hstack([rows, sparse.csr_matrix(rest[:, None])], "csr"))


def _single(
    checkpoint: Checkpoint, interventions: Sequence[Intervention], target: Target
) -> StoredEffect:
    effects = checkpoint.effects
    assert effects is not None  # noqa: S101 - `carried` has refused it
    places = effects.measured_in(interventions)
    control = np.stack([effects.control(context) for _, context in places])
    posteriors = [effects.posterior(row) for row, _ in places]
    measured = np.isfinite(control)
    sources = Sources(
        tuple(str(dict(effects.contexts[context])) for _, context in places),
        np.where(measured, np.stack([p.mean for p in posteriors]), np.nan),
        np.where(measured, np.stack([p.sd**2 for p in posteriors]) + LEAST_NOISE, np.nan),
        control,
        np.where(measured, 0.0, np.nan),
        target.variance,
    )
    result = Carrier(sources).to(target.control)
    libraries = [float(effects.rows[row]["library"]) for row, _ in places]
    library = float(np.exp(np.mean(np.log(libraries))))
    return StoredEffect(_masked(result.effect, target), CARRIED, result.note, library=library)


def _combination(
    checkpoint: Checkpoint, interventions: Sequence[Intervention], target: Target
) -> StoredEffect:
    effects = checkpoint.effects
    assert effects is not None  # noqa: S101 - `carried` has refused it
    parts = [carried(checkpoint, [item], target) for item in interventions]
    place = {gene: i for i, gene in enumerate(checkpoint.panel)}
    nothing = np.zeros((0, len(target.control)))
    combined = together(
        [part.posterior for part in parts],
        effects.saturation,
        Range.of(nothing, target.control),
        [place.get(item.target, -1) for item in interventions],
    )
    return StoredEffect(
        _masked(combined.effect, target),
        COMBINATION,
        f"parts {CARRIED}; {combined.note}",
        library=float(np.prod([part.library for part in parts])),
        additive=_masked(combined.additive, target),
    )


def _masked(estimate: Posterior, target: Target) -> Posterior:
    """Return a posterior with no effect on genes that were not measured."""
    measured = np.isfinite(target.control)
    return replace(
        estimate,
        mean=np.where(measured, estimate.mean, 0.0),
        sd=np.where(measured, estimate.sd, 0.0),
        lfsr=np.where(measured, estimate.lfsr, 1.0),
    )


def _levels(rows: Rows, share: float, measured: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return mean and variance of log1p_cp10k, [genes]; the mean is NaN where not measured."""
    totals = np.maximum(np.asarray(rows.sum(axis=1)).ravel() / share, 1.0)
    levels: Any = rows.copy()
    levels.data = np.log1p(levels.data * CP10K / np.repeat(totals, np.diff(rows.indptr)))
    n = rows.shape[0]
    mean = np.asarray(levels.sum(axis=0)).ravel() / n
    levels.data = levels.data**2
    square = np.asarray(levels.sum(axis=0)).ravel() / n
    return np.where(measured, mean, np.nan), np.maximum(square - mean**2, 0.0)


def _pearson(a: Floats, b: Floats) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return 0.0
    return float(np.corrcoef(a[both], b[both])[0, 1])
