"""What a checkpoint stores of a design's effect, and of the parts of a combination."""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from lingshu_model.contracts.effects import COMBINATION, NoEffectError, StoredEffect
from lingshu_model.contracts.error_model import ErrorModel
from lingshu_model.contracts.posterior import Floats
from lingshu_tools.experiments.designs import Design, label_of

PARALLEL = 0.8
"""Cosine of two effects from which they are taken for one pathway's."""


def stored_effect(design: Design) -> StoredEffect | None:
    """Return the effect that a checkpoint stores or works out; None where it stores none.

    Its sd and lfsr are those of a new experiment (`lingshu_model.contracts.error_model`): a
    posterior of the trained replicates alone is too narrow.
    """
    effects = design.checkpoint.effects
    if effects is None or not design.interventions:
        return None
    try:
        effect = effects.effect(design.context, design.interventions)
    except NoEffectError:
        return None
    wider = error_model(design).widened(effect.posterior, design.checkpoint.gene_variance)
    return replace(effect, posterior=wider)


def error_model(design: Design) -> ErrorModel:
    """Return how far a new experiment may be from predictions of a design's support tier."""
    return ErrorModel.from_evidence(design.checkpoint.evidence, design.support.tier)


@dataclass(frozen=True)
class Parts:
    """The parts of a combination and what they are expected to do together.

    Attributes:
        labels: of the parts.
        means: posterior mean changes of each alone, [parts, genes].
        saturating: expected change of all, less than their sum, [genes].
        measured: whether the checkpoint has cells of the combination; without, what it predicts is
            the saturating expectation.
        similarity: largest cosine of two parts' changes, the targets' own genes left out; 0 where
            a part changes nothing.
    """

    labels: tuple[str, ...]
    means: Floats
    saturating: Floats
    measured: bool
    similarity: float

    @property
    def parallel(self) -> bool:
        """Whether two parts do nearly the same, as two genes of one pathway."""
        return self.similarity >= PARALLEL


def parts_of(design: Design, stored: StoredEffect | None) -> Parts | None:
    """Return the parts of a combination; None of a single perturbation or without their effects."""
    effects = design.checkpoint.effects
    if effects is None or stored is None or len(design.interventions) < 2:
        return None
    try:
        singles = [effects.effect(design.context, [i]).posterior.mean for i in design.interventions]
        expected = effects.expected(design.context, design.interventions).posterior.mean
    except NoEffectError:
        return None
    means = np.stack(singles)
    targets = {i.target for i in design.interventions}
    others = np.array([gene not in targets for gene in design.checkpoint.panel])
    return Parts(
        tuple(label_of([i]) for i in design.interventions),
        means,
        expected,
        stored.source != COMBINATION,
        max(_cosine(a[others], b[others]) for a, b in combinations(means, 2)),
    )


def _cosine(a: Floats, b: Floats) -> float:
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 0 else 0.0
