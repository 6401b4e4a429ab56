"""One candidate of a screen as a row of a result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from lingshu_tools.analysis.certainty import word
from lingshu_tools.analysis.held_out import CONDITION, HeldOut
from lingshu_tools.analysis.pairs.pair_classes import PairClass
from lingshu_tools.analysis.power import NORMAL
from lingshu_tools.calls.results import Number, View, finite, text_table
from lingshu_tools.experiments.stored_effects import stored_effect
from lingshu_tools.planner import Ranked


class CombinationView(View):
    """What a combination's score gains over its best part and over expectations of its parts.

    By stored effects. Without training cells of the combination its effect is the saturating
    expectation, and the gain over it is null. `parallel_effects`: two parts do nearly the same
    alone, as genes of one pathway do. `pair`: the class of a measured pair after Norman 2019
    (`lingshu_tools.analysis.pairs.pair_classes`), the probability of it, and the coefficients of
    the parts' changes in the pair's with their 95 % intervals.
    """

    detail_only = frozenset(
        {"best_single", "gain_over_saturating", "pair_probability", "coefficients"}
    )

    best_single: str = ""
    gain_over_best_single: Number
    gain_over_additive: Number
    gain_over_saturating: Number | None = None
    parallel_effects: bool
    pair: str | None = None
    pair_probability: Number | None = None
    coefficients: list[list[Number]] | None = None


class RankedView(View):
    """One candidate of a screen.

    `closed_form` is the score by the stored effect, without simulation;
    `fdr` is the share of wrong signs to expect among candidates at least as certain (against null
    labels where no effects are stored), once the screen is complete; `in_top` the probability to be
    among the `top_k` best; `held_out` Pearson of change on held-out cells of this candidate, with
    its interval; `beats_simple` whether that was better than every simple predictor's; `kept` the
    change of each gene that is to stay: posterior mean and 95 % interval of a new experiment.
    """

    detail_only = frozenset({"support", "fdr", "kept"})

    perturbation: str
    score: Number | None = Field(description="mean(sign × change); larger better")
    mc_interval: list[Number] | None = Field(default=None, description="95 % Monte Carlo interval")
    prediction_error: Number | None = Field(description="Held-out RMS error of scores of its size")
    support: str = ""
    experiment_id: str
    fdr: Number | None = None
    left_out: list[str] = Field(
        default_factory=list[str], description="The target's own genes, not counted"
    )
    closed_form: Number | None = None
    interval: list[Number] | None = Field(default=None, description="95 % posterior interval")
    lfsr: Number | None = None
    certainty: str | None = None
    in_top: Number | None = None
    held_out: list[Number] | None = None
    beats_simple: bool | None = None
    combination: CombinationView | None = None
    kept: dict[str, list[Number]] = Field(default_factory=dict[str, list[float]])

    def __getitem__(self, name: str) -> Any:
        """Return a field; rows of get_experiment's rankings were dictionaries."""
        return getattr(self, name)


class CertainRankedView(RankedView):
    """A candidate whose effect is stored: the posterior interval holds the simulation's noise.

    The interval is centred on `closed_form`.
    """

    detail_only = RankedView.detail_only | {
        "mc_interval",
        "left_out",
        "beats_simple",
        "closed_form",
    }


def ranked_view(row: Ranked, keep: Sequence[str] = ()) -> RankedView:
    """Return a candidate as a row of a result, with its changes of the genes that are to stay."""
    kind = RankedView if row.posterior is None else CertainRankedView
    return kind(
        perturbation=row.design.label,
        score=finite(row.value),
        mc_interval=row.score.mc_interval,
        prediction_error=row.error.rms if row.error else None,
        support=row.design.support.tier,
        experiment_id=row.experiment_id,
        fdr=finite(row.fdr),
        left_out=list(row.score.left_out),
        kept=_kept(row, keep),
        **_own_figure(row.held_out),
        **_certain(row),
    )


def _kept(row: Ranked, genes: Sequence[str]) -> dict[str, list[float]]:
    """Return the changes of genes that are to stay; a target's gene is free to change."""
    stored = stored_effect(row.design) if genes else None
    if stored is None:
        return {}
    panel, targets = row.design.checkpoint.panel, {i.target for i in row.design.interventions}
    changes: dict[str, list[float]] = {}
    for gene in genes:
        if gene not in targets:
            place = panel.index(gene)
            mean, sd = (float(x[place]) for x in (stored.posterior.mean, stored.posterior.sd))
            # The sd is that of a new experiment, as the bound of the constraint is.
            changes[gene] = [mean, mean - NORMAL * sd, mean + NORMAL * sd]
    return changes


def _certain(row: Ranked) -> dict[str, Any]:
    """Return the fields that a stored effect gives."""
    if row.posterior is None:
        return {}
    c = row.combination
    return {
        "closed_form": row.posterior.mean,
        "interval": list(row.posterior.interval),
        "lfsr": row.lfsr,
        "certainty": word(row.lfsr),
        "in_top": row.in_top,
        "combination": c
        and CombinationView(
            best_single=c.best,
            gain_over_best_single=c.gain,
            # score - additive: the gain is kept as score - best, so the best part is added again.
            gain_over_additive=c.best_score + c.gain - c.additive,
            # Without cells of the combination its effect is that expectation: a 0 would look like a
            # result.
            gain_over_saturating=c.best_score + c.gain - c.saturating if c.measured else None,
            parallel_effects=c.parallel,
            **_pair(c.pair),
        ),
    }


def _pair(pair: PairClass | None) -> dict[str, Any]:
    """Return the fields of a pair's class; none where no cells of it were measured."""
    if pair is None:
        return {}
    return {
        "pair": pair.name,
        "pair_probability": pair.probability,
        "coefficients": [list(each) for each in pair.coefficients],
    }


def _own_figure(figure: HeldOut | None) -> dict[str, Any]:
    if figure is None or figure.level != CONDITION or figure.model.value is None:
        return {}
    return {
        "held_out": [figure.model.value, *(figure.model.interval or ())],
        "beats_simple": figure.holds,
    }


def ranking_table(ranking: Sequence[RankedView]) -> str:
    """Return ranked candidates as tab-separated lines."""
    head = ("perturbation", "score", "interval", "prediction_error", "support", "lfsr", "in_top",
            "fdr", "id")  # fmt: skip
    names = (*head[:-1], "experiment_id")
    return text_table(head, ([getattr(row, name) for name in names] for row in ranking))
