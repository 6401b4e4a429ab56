"""Views of compared experiments: what differs, how they agree, and genes one by one."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lingshu_tools.analysis.certainty import LEAST_LFSR, word
from lingshu_tools.analysis.held_out import CONDITION, held_out
from lingshu_tools.calls.results import Number, View, finite
from lingshu_tools.experiments.designs import context_label
from lingshu_tools.report.comparison import Comparison, MonteCarlo

MANY = 4
"""Experiments from which a concise result says less of each."""
_DISTINCT = 3
"""Values of a differing field that a concise result shows."""


class ComparedView(View):
    """One experiment, and how its effect agrees with that of the first.

    `n_certain`: genes whose change is certain; `pearson` and `spearman` over genes certain in
    this or the first; `same_sign` of the `n_both` genes that are certain in both.
    """

    detail_only = frozenset({"checkpoint", "spearman", "context", "n_cells", "unpaired"})

    experiment_id: str
    perturbation: str
    context: str = ""
    checkpoint: str = ""
    n_cells: int = 0
    held_out: list[Number] | None = Field(
        default=None, description="Pearson of change on held-out cells of it, with interval"
    )
    n_certain: int = 0
    pearson: Number | None = None
    spearman: Number | None = None
    n_both: int | None = None
    same_sign: int | None = None
    unpaired: str | None = Field(default=None, description="Why its cells are not paired")


class BriefComparedView(ComparedView):
    """One of many experiments."""

    detail_only = ComparedView.detail_only | {"held_out", "n_certain"}


class GeneDifference(View):
    """A gene in each experiment, and how the one that differs most differs from the first."""

    # The Monte Carlo interval is of `mc_difference`, not of the difference that is always shown.
    detail_only = frozenset({"mc_difference", "mc_interval"})

    gene: str
    changes: list[Number | None] = Field(description="Posterior means, in the order of experiments")
    other: int = Field(description="Which experiment the difference is of; 2 is the second")
    difference: Number | None = Field(description="Posterior mean of other - first")
    interval: list[Number] | None = Field(default=None, description="95 % posterior interval")
    lfsr: Number | None = None
    certainty: str | None = None
    mc_difference: Number | None = Field(default=None, description="The same of simulated cells")
    mc_interval: list[Number] | None = Field(default=None, description="95 % Monte Carlo interval")


class PairView(View):
    """How two experiments agree, by their places in the list."""

    a: int
    b: int
    n_genes: int
    pearson: Number | None
    spearman: Number | None
    n_both: int
    same_sign: int


def gene_views(comparison: Comparison, rows: list[int]) -> list[GeneDifference]:
    """Return genes, by their numbers in the comparison, as rows of a result."""
    simulated, intervals = comparison.monte_carlo(rows), _intervals(comparison, rows)
    return [
        _gene_view(comparison, gene, mc, intervals.get(gene))
        for gene, mc in zip(rows, simulated, strict=True)
    ]


def _intervals(comparison: Comparison, rows: list[int]) -> dict[int, list[float]]:
    """Return the posterior interval of each gene's difference, where there is a posterior."""
    intervals: dict[int, list[float]] = {}
    for place, posterior in enumerate(comparison.differences, 1):
        genes = [gene for gene in rows if comparison.other(gene) == place]
        if posterior is not None and genes:
            intervals |= zip(genes, posterior.intervals(genes), strict=True)
    return intervals


def _gene_view(
    comparison: Comparison, gene: int, simulated: MonteCarlo | None, interval: list[float] | None
) -> GeneDifference:
    other = comparison.other(gene)
    posterior = comparison.differences[other - 1]
    lfsr = None if posterior is None else float(posterior.lfsr[gene])
    return GeneDifference(
        gene=comparison.genes[gene],
        changes=[finite(x) for x in comparison.changes[:, gene].tolist()],
        other=other + 1,
        difference=None if posterior is None else finite(posterior.mean[gene]),
        interval=interval,
        # The word follows from the rate itself; the number is not shown below LEAST_LFSR.
        lfsr=None if lfsr is None else finite(max(lfsr, LEAST_LFSR)),
        certainty=word(lfsr),
        mc_difference=simulated and finite(simulated.difference),
        mc_interval=simulated and simulated.interval,
    )


def compared_view(comparison: Comparison, place: int) -> ComparedView:
    """Return the experiment at a place, with its agreement with the first."""
    side = comparison.sides[place]
    design = side.design
    figure = held_out(design.checkpoint, design.context, design.interventions)
    # Only a figure of this very condition: that of a tier would look like one in a row.
    known = figure.model if figure and figure.level == CONDITION else None
    agreed = comparison.agreement(0, place) if place else None
    # Rows of many experiments are shorter, to stay within the tokens of a concise result.
    kind = ComparedView if len(comparison.sides) < MANY else BriefComparedView
    return kind(
        experiment_id=side.record.experiment.id,
        perturbation=design.label,
        context=context_label(design.context),
        checkpoint=design.checkpoint.name,
        n_cells=design.n_cells,
        held_out=[known.value, *(known.interval or ())] if known and known.value else None,
        n_certain=comparison.n_certain(place),
        pearson=agreed and finite(agreed.pearson),
        spearman=agreed and finite(agreed.spearman),
        n_both=agreed and agreed.n_both,
        same_sign=agreed and agreed.n_same_sign,
        unpaired=comparison.unpaired(place) if place else None,
    )


def pair_view(comparison: Comparison, a: int, b: int) -> PairView:
    """Return how the experiments at two places agree."""
    agreed = comparison.agreement(a, b)
    return PairView(
        a=a + 1,
        b=b + 1,
        n_genes=agreed.n_genes,
        pearson=finite(agreed.pearson),
        spearman=finite(agreed.spearman),
        n_both=agreed.n_both,
        same_sign=agreed.n_same_sign,
    )


def differing(comparison: Comparison, *, detailed: bool) -> list[str]:
    """Return each differing field with its distinct values, in the order of experiments."""
    # Distinct values, not one per experiment: most fields differ between two groups.
    most = None if detailed else _DISTINCT
    return [f"{name}: {_distinct(values, most)}" for name, values in comparison.differs().items()]


def _distinct(values: list[Any], most: int | None) -> str:
    texts = list(dict.fromkeys(_value(value) for value in values))
    rest = len(texts) - len(texts[:most])
    return " | ".join(texts[:most]) + (f" | … ({len(texts)} values)" if rest else "")


def _value(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return " + ".join(f"{i.get('target')} {i.get('kind')}" for i in value)
    # Twelve digits tell digests apart.
    text = str(value)
    return text[:19] if text.startswith("sha256:") else text[:60]


def pairing_of(comparison: Comparison) -> str:
    """Return which simulations are paired with the first one, and why others are not."""
    reasons = {i: comparison.unpaired(i) for i in range(1, len(comparison.sides))}
    unpaired = {i + 1: why for i, why in reasons.items() if why}
    if not unpaired:
        return "paired: seed and cells are those of the first, so mc_interval is of paired cells"
    shared = sorted(set(unpaired.values()))
    if len(unpaired) == len(reasons):
        return f"unpaired ({'; '.join(shared)}): simulations are taken as independent"
    which = "; ".join(f"{place} ({why})" for place, why in unpaired.items())
    return f"paired with the first, but for {which}, taken as independent"
