"""What a checkpoint stores of a design's effect, and of the parts of a combination."""

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lingshu_model.contracts import Intervention
from lingshu_model.contracts.effects import (
    BOTH,
    CARRIED,
    COMBINATION,
    NoEffectError,
    StoredEffect,
)
from lingshu_model.contracts.error_model import ErrorModel
from lingshu_model.contracts.posterior import Floats, Posterior
from lingshu_tools.analysis import Objective, Residuals, Tangent
from lingshu_tools.analysis.certainty import ScorePosterior, normal_score, score_posterior
from lingshu_tools.analysis.pairs.pair_classes import PairClass, pair_class
from lingshu_tools.experiments.designs import Design, context_label, label_of

PARALLEL = 0.8
"""Cosine of two effects from which they are taken for one pathway's."""
NAMED = 12
"""Contexts of a note that are named."""


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


def note_of(design: Design, stored: StoredEffect) -> str:
    """Return how an effect came about, with the contexts that it is carried from by name."""
    labels = carried_from(design, stored)
    if not labels:
        return stored.note
    more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
    return f"{stored.note}. Carried from: {'; '.join(labels[:NAMED])}{more}"


def carried_from(design: Design, stored: StoredEffect) -> list[str]:
    """Return the labels of the other contexts that an effect, or a part of it, comes from."""
    effects = design.checkpoint.effects
    if effects is None:
        return []
    whole = tuple(design.interventions)
    sources = [(whole, stored)]
    # Parts of a combination come from this context's cells or others', each for itself.
    if stored.source == COMBINATION or not effects.measured_in(whole):
        sources = [((part,), _of_part(design, part)) for part in whole]
    numbers = {
        context
        for parts, effect in sources
        if effect is None or effect.source in (BOTH, CARRIED)
        for _, context in effects.measured_in(parts)
    }
    here = dict(design.context)
    others = [effects.contexts[i] for i in sorted(numbers) if dict(effects.contexts[i]) != here]
    return [context_label(context) for context in others]


def _of_part(design: Design, part: Intervention) -> StoredEffect | None:
    """Return the effect of a part; None in a user's cells, to which the whole is carried."""
    effects = design.checkpoint.effects
    with suppress(NoEffectError):
        return effects and effects.effect(design.context, (part,))
    return None


def aimed_posterior(design: Design) -> Posterior | None:
    """Return the effect that aims are taken near; None where nothing is stored.

    Its sd is that of a new experiment, so that a cosine says nothing of an effect that is lost in
    the differences between experiments. Of a combination it is that of its parts together.
    """
    effects = design.checkpoint.effects
    stored = stored_effect(design)
    if effects is None or stored is None or stored.source != COMBINATION:
        return stored and stored.posterior
    parts = [stored_effect(replace(design, interventions=(i,))) for i in design.interventions]
    squares = [part.posterior.sd**2 for part in parts if part is not None]
    if len(squares) < len(parts):
        return None
    factor = effects.saturation.factor(len(parts))
    mean = effects.effect(design.context, design.interventions).posterior.mean
    return replace(stored.posterior, mean=mean, sd=factor * np.sqrt(np.sum(squares, axis=0)))


def tangent_of(design: Design, objective: Objective) -> Tangent | None:
    """Return the score of a design near its stored effect; None where it has none."""
    targets = {i.target for i in design.interventions}
    panel = design.checkpoint.panel
    if not objective.aims:
        return objective.tangent(panel, targets)
    trained = aimed_posterior(design)
    return trained and objective.tangent(panel, targets, trained.mean, trained.sd**2)


def score_of(
    design: Design, objective: Objective, residuals: Residuals | None = None
) -> ScorePosterior | None:
    """Return the posterior of a design's score by stored effects; None without one.

    Args:
        design: the perturbation.
        objective: what is scored.
        residuals: held-out residuals of its support tier. Aims take the spread of the score from
            them, since they hold how the errors of all genes depend on each other; without them
            the errors are taken as fully dependent.
    """
    stored, tangent = stored_effect(design), tangent_of(design, objective)
    if stored is None or tangent is None:
        return None
    posterior = score_posterior(stored.posterior, tangent.weights)
    if not objective.aims:
        return posterior
    sd = residuals.sd_near(tangent) if residuals else None
    if sd is None:
        sd = float(np.abs(tangent.weights) @ stored.posterior.sd)
    return normal_score(posterior.mean + tangent.offset, sd, objective.limits)


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
        pair: what a pair does after Norman 2019; None of more than two, and where no cells of the
            pair were measured, since what is predicted from parts is no evidence.
    """

    labels: tuple[str, ...]
    means: Floats
    saturating: Floats
    measured: bool
    similarity: float
    pair: PairClass | None = None

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
    measured = stored.source != COMBINATION
    return Parts(
        tuple(label_of([i]) for i in design.interventions),
        means,
        expected,
        measured,
        max(_cosine(a[others], b[others]) for a, b in combinations(means, 2)),
        _pair(design, stored, others) if measured and len(singles) == 2 else None,
    )


def _pair(design: Design, stored: StoredEffect, others: NDArray[np.bool_]) -> PairClass | None:
    """Return the class of a measured pair, with the sd of a new experiment."""
    parts = [stored_effect(replace(design, interventions=(i,))) for i in design.interventions]
    a, b, both = (
        each and Posterior(each.posterior.mean[others], each.posterior.sd[others],
                           each.posterior.lfsr[others])
        for each in (*parts, stored)
    )  # fmt: skip
    return None if a is None or b is None or both is None else pair_class(a, b, both)


def _cosine(a: Floats, b: Floats) -> float:
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 0 else 0.0
