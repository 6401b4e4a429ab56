"""The metrics of two public challenges for the model and its baselines, on held-out cells.

Predictors: `model`; `control_mean` (held-out control cells drawn again); `mean_shift` (those cells
with each gene scaled by the mean training change of all perturbations, in whole counts);
`resampled_training_cells`. The first and the last bring their own control cells, the others have
the held-out ones. Everyone predicts as many cells as are held out, as far as the model sampled
that many, since rank tests of more cells call more genes. Knows nothing of samplers or files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lingshu_model.evaluate.changes import Counts, Floats
from lingshu_model.evaluate.estimates import Estimate, Verdict, estimate, verdict
from lingshu_model.evaluate.observed import CONTROL, Observed
from lingshu_model.evaluate.scoring import Judgement, Reference, Scale, vcc2025, vcc2026
from lingshu_model.evaluate.scoring.expression import ratio_of_sums
from lingshu_model.evaluate.scoring.scaled import LOWER_IS_BETTER
from lingshu_model.evaluate.sparse import dense, is_expression

MODEL, CONTROL_MEAN = "model", "control_mean"
PREDICTORS = (MODEL, CONTROL_MEAN, "mean_shift", "resampled_training_cells")
OF_2025 = ("overlap_at_N", "discrimination_score_l1", vcc2025.PAPER_PDS, "mae", "pearson_delta")
METRICS = (*OF_2025, *vcc2026.MEMBERS)
DRAWS = 1000
UNDEFINED = 0.025
"""A ratio to changes that are lost in their noise in more draws than this has no interval."""
Arms = Mapping[str, Counts]


@dataclass(frozen=True)
class ScoreTable:
    """Scores by predictor.

    Attributes:
        perturbations: whose cells were scored.
        judged: one judgement per seed.
        scale: the ends of the scaled scores.
        weights: how often each perturbation is drawn, [draws, perturbations], the same for all.
    """

    perturbations: list[str]
    judged: Mapping[str, Sequence[Judgement]]
    scale: Scale
    weights: Floats

    def value(self, predictor: str, metric: str) -> Estimate:
        """Return a metric averaged over seeds, its interval over resampled perturbations."""
        value, draws = self._score(predictor, metric)
        return estimate(value, draws)

    def difference(self, baseline: str, metric: str) -> Estimate:
        """Return model − baseline, the same perturbations drawn for both."""
        (mine, draws), (other, other_draws) = (
            self._score(name, metric) for name in (MODEL, baseline)
        )
        return estimate(mine - other, draws - other_draws)

    def verdict(self, baseline: str, metric: str) -> Verdict | None:
        """Return win, tie or loss of the model against a baseline; None without an interval."""
        difference = self.difference(baseline, metric)
        if not np.isfinite(difference.interval).all():
            return None
        higher = vcc2025.HIGHER.get(metric, metric not in LOWER_IS_BETTER)
        return verdict(difference, higher_is_better=higher)

    def scaled(self, predictor: str) -> dict[str, float]:
        """Return the six scaled scores and their mean, averaged over seeds."""
        each = [judgement.scaled for judgement in self.judged[predictor]]
        return {m: float(np.mean([scores[m] for scores in each])) for m in each[0]}

    def _score(self, predictor: str, metric: str) -> tuple[float, Floats]:
        scores = [_aggregated(j, metric, self) for j in self.judged[predictor]]
        return float(np.mean([s[0] for s in scores])), np.mean([s[1] for s in scores], axis=0)


def challenge(
    observed: Observed, sources: Mapping[str, Sequence[Mapping[str, Any]]], rng: np.random.Generator
) -> ScoreTable | None:
    """Return the scores of a model and its peers; None unless all contrasts have one control.

    Args:
        observed: the real cells, arrays or CSR.
        sources: the model's and the peers' counts by condition, one mapping per seed; peers
            without counts of every perturbation are left out.
        rng: for drawing cells and perturbations.
    """
    controls = {control for _, control in observed.pairs}
    if len(controls) != 1:
        return None
    names = {CONTROL: controls.pop(), **{n: p for n, (p, _) in observed.contrasts.items()}}

    def dense_arms(arms: Mapping[str, Any]) -> dict[str, Counts]:
        return {name: dense(arms[own]) for name, own in names.items() if own in arms}

    real = Observed(observed.genes, dense_arms(observed.train), dense_arms(observed.test))
    complete = {
        source: [dense_arms(arms) for arms in seeds]
        for source, seeds in sources.items()
        if all(_counted(arms, p) for arms in seeds for p, _ in observed.pairs)
    }
    model = complete.pop(MODEL)
    return score_predictors(real, model, rng, complete)


def _counted(arms: Mapping[str, Any], name: str) -> bool:
    return name in arms and not is_expression(arms[name])


def score_predictors(
    observed: Observed,
    sampled: Sequence[Arms],
    generator: np.random.Generator,
    peers: Mapping[str, Sequence[Arms]] | None = None,
) -> ScoreTable:
    """Return the scores of the model, its baselines and its peers.

    Args:
        observed: the real cells.
        sampled: one mapping per seed: sampled counts by condition, the control included.
        generator: for drawing cells and perturbations.
        peers: the same of other models; without a control they have the held-out control cells.
    """
    names = observed.perturbations
    measured = set(observed.genes)
    targets = {name: name if name in measured else None for name in names}
    real = {name: observed.test[name] for name in (CONTROL, *names)}
    reference = Reference.of(real, observed.genes, CONTROL, targets)
    judged = {
        predictor: [reference.score(make(observed, arms, generator)) for arms in sampled]
        for predictor, make in _MAKERS.items()
    }
    judged |= {
        peer: [reference.score(_model(observed, arms, generator)) for arms in seeds]
        for peer, seeds in (peers or {}).items()
    }
    weights = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    return ScoreTable(names, judged, reference.scale, weights.astype(np.float64))


def _aggregated(judgement: Judgement, metric: str, table: ScoreTable) -> tuple[float, Floats]:
    """Return a metric over all perturbations and over each draw of them."""
    scores = judgement.vcc2025 if metric in OF_2025 else judgement.vcc2026
    if metric == vcc2026.ERROR:
        top, bottom = (
            _column(scores.by_metric[part], table.perturbations)
            for part in (vcc2026.NUMERATOR, vcc2026.DENOMINATOR)
        )
        draws = np.array([ratio_of_sums(w * top, w * bottom) for w in table.weights])
        if np.isnan(draws).mean() > UNDEFINED:
            draws[:] = np.nan
        return ratio_of_sums(top, bottom), draws
    values = _column(scores.by_metric[metric], table.perturbations)
    defined = np.isfinite(values)
    if not defined.any():
        return float("nan"), np.full(len(table.weights), np.nan)
    weights = table.weights[:, defined]
    total = weights.sum(axis=1)
    sums = weights @ values[defined]
    draws = np.divide(sums, total, out=np.full(len(sums), np.nan), where=total > 0)
    return float(values[defined].mean()), draws


def _column(values: Mapping[str, float], names: Sequence[str]) -> Floats:
    return np.array([values.get(name, np.nan) for name in names])


def _sizes(observed: Observed, arms: Arms) -> dict[str, int]:
    return {name: min(len(observed.test[name]), len(cells)) for name, cells in arms.items()}


def _model(observed: Observed, arms: Arms, _: np.random.Generator) -> Arms:
    # The first ones of every arm, so that cells which were sampled as pairs stay pairs.
    return {name: arms[name][:n] for name, n in _sizes(observed, arms).items()}


def _control_mean(observed: Observed, arms: Arms, generator: np.random.Generator) -> Arms:
    sizes = _sizes(observed, arms)
    cells = observed.test[CONTROL]
    return {name: _drawn(cells, sizes[name], generator) for name in observed.perturbations}


def _mean_shift(observed: Observed, arms: Arms, generator: np.random.Generator) -> Arms:
    before = _profile(observed.train[CONTROL])
    after = np.mean([_profile(observed.train[name]) for name in observed.perturbations], axis=0)
    factor = np.divide(after, before, out=np.zeros_like(after), where=before > 0)
    return {
        name: _rounded(np.asarray(cells * factor, np.float64), generator)
        for name, cells in _control_mean(observed, arms, generator).items()
    }


def _training(observed: Observed, arms: Arms, generator: np.random.Generator) -> Arms:
    sizes = _sizes(observed, arms)
    return {name: _drawn(observed.train[name], sizes[name], generator) for name in arms}


_MAKERS: dict[str, Callable[[Observed, Arms, np.random.Generator], Arms]] = dict(
    zip(PREDICTORS, (_model, _control_mean, _mean_shift, _training), strict=True)
)


def _drawn(cells: Counts, n: int, generator: np.random.Generator) -> Counts:
    return cells[generator.integers(len(cells), size=n)]


def _profile(cells: Counts) -> Floats:
    """Return each gene's share of all counts."""
    total = cells.sum(axis=0, dtype=np.float64)
    return total / max(total.sum(), 1.0)


def _rounded(values: Floats, generator: np.random.Generator) -> Counts:
    """Return whole counts with these expectations."""
    return np.floor(values + generator.random(values.shape)).astype(np.int32)
