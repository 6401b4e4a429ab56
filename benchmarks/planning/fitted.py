"""Stored effects of drawn or real cells as a planner has them, without a checkpoint's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingshu_model.contracts import Intervention
from lingshu_model.contracts.effects import StoredEffects
from lingshu_model.contracts.error_model import DEFAULT, ErrorModel
from lingshu_model.contracts.posterior import Posterior
from lingshu_model.effects.moments import expression_levels
from lingshu_model.finishing.estimate import EffectFit
from lingshu_model.finishing.evidence import certainty_of, judged_folds
from lingshu_model.finishing.tables import stored_effects
from lingshu_model.network import tokens
from lingshu_model.train.data.cells import Condition, TrainingCells
from lingshu_tools.analysis import Objective
from lingshu_tools.analysis.certainty import ScorePosterior, score_posterior

Floats = NDArray[np.float64]
Targets = frozenset[str]
CONTEXT = (("cells", "drawn"),)
SEEN, COMBINATION, UNSEEN = "seen", "combination_of_seen", "unseen"


def change(perturbed: NDArray[np.int32], control: NDArray[np.int32]) -> tuple[Floats, Floats]:
    """Return the change of mean log1p_cp10k and its squared standard error, [genes] each."""
    arms = [expression_levels(sparse.csr_matrix(c, dtype=np.float64)) for c in (perturbed, control)]
    means = [np.asarray(a.mean(axis=0)).ravel() for a in arms]
    noise = [
        (np.asarray(a.multiply(a).mean(axis=0)).ravel() - m**2) / a.shape[0]
        for a, m in zip(arms, means, strict=True)
    ]
    return means[0] - means[1], noise[0] + noise[1]


def training_cells(
    genes: tuple[str, ...], counts: Mapping[Targets, NDArray[np.int32]], kind: str
) -> TrainingCells:
    """Return the cells of every condition; the empty set of targets is control."""
    names = {
        targets: Condition(
            CONTEXT, tuple(Intervention(kind=kind, target=t) for t in sorted(targets))
        )
        for targets in counts
    }
    order = sorted(counts, key=lambda t: (bool(t), repr(names[t])))
    condition = np.concatenate([np.full(len(counts[t]), i) for i, t in enumerate(order)])
    matrix = sparse.csr_matrix(
        tokens.encode(np.concatenate([counts[t] for t in order])).astype(np.uint16)
    )
    n = len(condition)
    return TrainingCells(
        genes, matrix, np.arange(n), np.zeros(n, np.int64), np.ones((1, len(genes)), bool),
        condition.astype(np.int64), tuple(names[t] for t in order),
    )  # fmt: skip


@dataclass(frozen=True)
class Model:
    """Effects of some conditions, with the errors of new experiments by support tier.

    Attributes:
        genes: the panel.
        kind: of intervention.
        effects: stored ones; combinations and unseen targets are worked out.
        errors: by tier.
        variance: of each gene between cells.
        seen: conditions with cells.
    """

    genes: tuple[str, ...]
    kind: str
    effects: StoredEffects
    errors: Mapping[str, ErrorModel]
    variance: Floats
    seen: frozenset[Targets]

    @classmethod
    def of(cls, cells: TrainingCells, kind: str, *, judge: bool = True) -> Model:
        """Return the effects of training cells; without `judge` no fold is left out."""
        fit = EffectFit(cells)
        fitted = fit.run()
        errors = {}
        for tier, figures in (certainty_of(judged_folds(cells, {})) if judge else {}).items():
            record = (figures or {}).get("error_model")
            errors[tier] = ErrorModel(**record) if record else DEFAULT
        seen = {frozenset(i.target for i in c.interventions) for c in cells.conditions}
        return cls(
            tuple(cells.panel),
            kind,
            stored_effects(fitted, cells.panel, fit.control_means),
            errors,
            np.asarray(fit.effects.measured.variance, np.float64),
            frozenset(seen),
        )

    def tier(self, targets: Targets) -> str:
        """Return the support tier of a perturbation."""
        if targets in self.seen:
            return SEEN
        singles = all(frozenset([t]) in self.seen for t in targets)
        return COMBINATION if len(targets) > 1 and singles else UNSEEN

    def posterior(self, targets: Targets, *, expected: bool = False) -> Posterior:
        """Return the change of a new experiment; `expected`: from its parts though it was seen."""
        named = [Intervention(kind=self.kind, target=t) for t in sorted(targets)]
        read = self.effects.expected if expected else self.effects.effect
        tier = COMBINATION if expected else self.tier(targets)
        model = self.errors.get(tier, DEFAULT)
        return model.widened(read(dict(CONTEXT), named).posterior, self.variance)

    def score(self, targets: Targets, objective: Objective) -> ScorePosterior | None:
        """Return the posterior of a score; None where nothing of the objective is left."""
        weights = objective.weights(self.genes, targets)
        return None if weights is None else score_posterior(self.posterior(targets), weights)
