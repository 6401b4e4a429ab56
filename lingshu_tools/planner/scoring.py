"""Stage one of a screen: every candidate of its rules scored in closed form, the best kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np

from lingshu_model.contracts import Checkpoint, Intervention
from lingshu_model.contracts.effects import identity
from lingshu_model.contracts.error_model import ErrorModel
from lingshu_tools.analysis import Objective
from lingshu_tools.errors import InputError
from lingshu_tools.planner.beam import best_combinations
from lingshu_tools.planner.candidates import Perturbation
from lingshu_tools.planner.closed_form import Best, Floats, Singles
from lingshu_tools.planner.objectives.guard import Keep
from lingshu_tools.planner.rules import Rule, seen_alone

LEVELS = (0.05, 0.5, 0.95, 1.0)
"""Quantiles by which the scores of all candidates are described."""
_DIGITS = 3
"""Decimals of a recorded score, so that equal plans have equal records on any machine."""


@dataclass(frozen=True)
class Scoring:
    """What was scored in closed form, as the plan keeps it.

    Attributes:
        rules: in canonical form.
        n: candidates of the rules; what two rules have in common counts twice.
        n_unknown: of these, with a part of which nothing is known.
        n_untrained: of these, with a part that was never trained on, or is unfit: scored, and not
            simulated.
        n_trained: of these, that training had cells of, in this context.
        exact: whether no candidate that was left out can score better than those kept.
        quantiles: scores at `LEVELS`, log1p_cp10k.
    """

    rules: tuple[str, ...]
    n: int
    n_unknown: int
    n_untrained: int
    n_trained: int
    exact: bool
    quantiles: tuple[float, ...]

    @property
    def record(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Scoring:
        """Return what `record` kept."""
        lists: dict[str, Any] = {k: tuple(record[k]) for k in ("rules", "quantiles")}
        return cls(**{**record, **lists})


def scored(
    checkpoint: Checkpoint,
    context: Mapping[str, str],
    objective: Objective,
    rules: Sequence[Rule],
    keep: int,
    guard: Keep | None = None,
) -> tuple[Scoring, list[Perturbation]]:
    """Return what was scored, and the `keep` best candidates that can be simulated, best first.

    Candidates that may change a gene of `guard` have no score.

    Raises:
        InputError: the checkpoint stores no effects, or no candidate can be simulated.
    """
    trained = {i.sort_key for i in seen_alone(checkpoint, context)}
    results = [
        _Result.of(checkpoint, context, objective, rule, trained, keep, guard) for rule in rules
    ]
    kept = {p: score for result in results for p, score in result.kept}
    ordered = sorted(kept, key=lambda p: (-kept[p], [i.sort_key for i in p]))[:keep]
    scoring = Scoring(
        rules=tuple(rule.text for rule in rules),
        n=sum(rule.n for rule in rules),
        n_unknown=sum(r.n_unknown for r in results),
        n_untrained=sum(r.n_untrained for r in results),
        n_trained=sum(r.n_trained for r in results),
        exact=all(r.exact for r in results),
        quantiles=_quantiles([r.sample for r in results]),
    )
    if not ordered:
        raise InputError(_nothing(checkpoint, scoring, guard))
    return scoring, ordered


@dataclass(frozen=True)
class _Result:
    kept: list[tuple[Perturbation, float]]
    n_unknown: int
    n_untrained: int
    n_trained: int
    exact: bool
    sample: Floats

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        context: Mapping[str, str],
        objective: Objective,
        rule: Rule,
        trained: set[tuple[str, str, float]],
        keep: int,
        guard: Keep | None,
    ) -> _Result:
        singles = Singles.of(checkpoint, context, rule.parts, objective, guard)
        if singles is None:
            message = (
                f"{checkpoint.name!r} stores no effects in {dict(context)}, so that rules cannot "
                "be scored; name the candidates one by one"
            )
            raise InputError(message)
        fit = [
            i.sort_key in trained and not checkpoint.unfit(context, [i])
            for i in singles.interventions
        ]
        n_known, n_fit = len(singles.interventions), sum(fit)
        simulated = singles.subset(fit)
        best = _best(simulated, rule.size, keep)
        everything = best if n_fit == n_known else _best(singles, rule.size, keep)
        seen = [i.sort_key in trained for i in rule.parts]
        return cls(
            [*_named(simulated, best, checkpoint, context, objective)],
            n_unknown=comb(len(rule.parts), rule.size) - comb(n_known, rule.size),
            n_untrained=comb(n_known, rule.size) - comb(n_fit, rule.size),
            n_trained=sum(seen) if rule.size == 1 else _n_measured(checkpoint, context, rule),
            exact=best.exact,
            sample=everything.sample,
        )


def _best(singles: Singles, size: int, keep: int) -> Best:
    if len(singles.interventions) < size:
        return Best(np.empty((0, size), np.intp), np.empty(0), 0, 0, exact=True, sample=np.empty(0))
    return best_combinations(singles, size, keep)


def _named(
    singles: Singles,
    best: Best,
    checkpoint: Checkpoint,
    context: Mapping[str, str],
    objective: Objective,
) -> list[tuple[Perturbation, float]]:
    """Return candidates and scores; combinations that were measured have their measured score."""
    named: dict[Perturbation, float] = {}
    for members, score in zip(best.members, best.scores.tolist(), strict=True):
        if np.isnan(score):
            continue
        parts = [singles.interventions[i] for i in members]
        named[_in_order(parts)] = round(score, _DIGITS)
    size = best.members.shape[1]
    for parts in _measured(checkpoint, context, singles.interventions, size) if size > 1 else ():
        effects = checkpoint.effects
        if effects is None:
            continue
        posterior = effects.effect(context, parts).posterior
        model = ErrorModel.from_evidence(checkpoint.evidence, "seen")
        variance = model.sd(posterior, checkpoint.gene_variance) ** 2
        targets = {i.target for i in parts}
        measured = objective.value(checkpoint.panel, posterior.mean, targets, variance)
        if measured is not None:
            named[parts] = round(measured, _DIGITS)
    return list(named.items())


def _in_order(parts: Sequence[Intervention]) -> Perturbation:
    return tuple(sorted(parts, key=lambda i: i.sort_key))


def _measured(
    checkpoint: Checkpoint,
    context: Mapping[str, str],
    interventions: Sequence[Intervention],
    size: int,
) -> list[Perturbation]:
    """Return the combinations of these interventions that training had cells of."""
    by_key = {identity([i])[0]: i for i in interventions}
    effects = checkpoint.effects
    combinations = effects.measured_combinations(context) if effects else []
    return [
        _in_order([by_key[key] for key in parts])
        for parts in combinations
        if len(parts) == size and all(key in by_key for key in parts)
    ]


def _n_measured(checkpoint: Checkpoint, context: Mapping[str, str], rule: Rule) -> int:
    return len(_measured(checkpoint, context, rule.parts, rule.size))


def _quantiles(samples: Sequence[Floats]) -> tuple[float, ...]:
    scores = np.concatenate(samples) if samples else np.empty(0)
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return ()
    # A score of the sample itself: interpolation would differ in its last bits.
    values = np.quantile(scores, LEVELS, method="nearest").tolist()
    return tuple(round(value, _DIGITS) + 0.0 for value in values)


def _nothing(checkpoint: Checkpoint, scoring: Scoring, guard: Keep | None) -> str:
    if guard is not None and scoring.n_unknown + scoring.n_untrained < scoring.n:
        return (
            f"none of the {scoring.n:,} candidates of {', '.join(scoring.rules)[:200]} keeps "
            f"{', '.join(guard.genes[:6])} within {guard.within:g} log1p_cp10k, by the 95 % "
            "interval of a new experiment; raise keep_within, or keep fewer genes. Nothing was "
            "planned."
        )
    kinds = ", ".join(
        f"{len(names)} {kind} targets"
        for kind, names in checkpoint.targets.items()
        if kind != "sham"
    )
    return (
        f"{checkpoint.name!r} cannot rank any of the {scoring.n:,} candidates of "
        f"{', '.join(scoring.rules)[:200]}: nothing is known of {scoring.n_unknown:,}, and "
        f"{scoring.n_untrained:,} can only be guessed from features, without cells to simulate. It "
        f"was trained on {kinds or 'no perturbation'}; describe_model lists them. Nothing was "
        "planned."
    )
