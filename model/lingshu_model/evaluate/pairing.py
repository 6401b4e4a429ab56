"""What pairing saves: the Monte Carlo variance of an effect, independent over paired.

The variance of a mean change is that of its per-cell differences over n, so the ratio of the two
variances needs no repeats. Knows nothing of how cells are drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lingshu_model.evaluate.arms import ArmStore, Condition, trained
from lingshu_model.evaluate.changes import Counts, Floats, log1p_cp10k
from lingshu_model.evaluate.estimates import Estimate, estimate
from lingshu_model.evaluate.observed import CONTROL
from lingshu_model.evaluate.sparse import dense

DRAWS = 300
TARGETS = ("STAT1", "SMAD4", "CD86")
STEPS = (3, 8, 32)
APART = 1_000_003
"""Added to a seed for cells that are to share no stream with it."""
SCORE_GENES = ("PSMB9", "STAT1", "UBE2L6")


@dataclass(frozen=True)
class PairingGain:
    """Ratios of variances, independent over paired: 4 means a quarter of the cells, half the SE.

    Attributes:
        genes_total: of the summed variances over all genes.
        genes_median: the median of the genes' own ratios, over genes that vary in both.
        score: of the screen score.
        score_se: standard errors of the score, paired and independent, log1p_cp10k.
    """

    genes_total: Estimate
    genes_median: Estimate
    score: Estimate
    score_se: tuple[float, float]


def screen_score(counts: Counts, genes: Sequence[str], knocked_out: str) -> Floats:
    """Return each cell's share of the score: −mean of the score genes, the own gene left out."""
    columns = [genes.index(g) for g in SCORE_GENES if g in genes and g != knocked_out]
    return -log1p_cp10k(counts)[:, columns].mean(axis=1)


def pairing_gain(
    perturbed: Floats,
    paired: Floats,
    independent: Floats,
    scores: tuple[Floats, Floats, Floats],
    generator: np.random.Generator,
) -> PairingGain:
    """Return the gain of pairing for one perturbation, with bootstrap intervals over cells.

    Args:
        perturbed: perturbed cells, log1p_cp10k [cells, genes].
        paired: control cells sharing their streams, row by row.
        independent: control cells of another seed.
        scores: the score of each, [cells].
        generator: for the bootstrap.
    """
    together, apart = perturbed - paired, perturbed - independent
    score_together, score_apart = scores[0] - scores[1], scores[0] - scores[2]
    n = len(together)
    rows = generator.integers(n, size=(DRAWS, n))
    ratios = [_gene_ratios(together[r], apart[r]) for r in rows]
    total, median = _gene_ratios(together, apart)
    drawn = score_apart[rows].var(axis=1), score_together[rows].var(axis=1)
    variances = score_together.var(ddof=1), score_apart.var(ddof=1)
    return PairingGain(
        genes_total=estimate(total, np.array([r[0] for r in ratios])),
        genes_median=estimate(median, np.array([r[1] for r in ratios])),
        score=estimate(float(variances[1] / variances[0]), drawn[0] / drawn[1]),
        score_se=(float(np.sqrt(variances[0] / n)), float(np.sqrt(variances[1] / n))),
    )


def _gene_ratios(together: Floats, apart: Floats) -> tuple[float, float]:
    paired, independent = together.var(axis=0), apart.var(axis=0)
    varies = (paired > 0) & (independent > 0)
    ratios = independent[varies] / paired[varies]
    return float(independent.sum() / paired.sum()), float(np.median(ratios))


def n_pairing_arms() -> int:
    """Return how many arms `make_pairing` asks for."""
    return len(STEPS) * (2 + len(TARGETS))


def make_pairing(
    store: ArmStore, seed: int, each: Callable[[], object]
) -> dict[int, dict[str, PairingGain]]:
    """Return the gain of pairing by number of steps and knock-out.

    Raises:
        ValueError: the checkpoint was not trained on one of the three knock-outs.
    """
    asked = _arms(store)
    gains: dict[int, dict[str, PairingGain]] = {}
    for steps in STEPS:
        cells: dict[str, Counts] = {}
        for name, condition in asked.items():
            cells[name] = dense(store.counts(condition, seed, steps=steps))
            each()
        apart = dense(store.counts(asked[CONTROL], seed + APART, steps=steps))
        each()
        genes = store.checkpoint.panel
        gains[steps] = {
            name: _gain(cells[name], cells[CONTROL], apart, genes, name) for name in TARGETS
        }
    return gains


def _arms(store: ArmStore) -> dict[str, Condition]:
    known = {c.interventions[0].target: c for c in trained(store.checkpoint) if c.interventions}
    unknown = [name for name in TARGETS if name not in known]
    if unknown:
        message = (
            f"{store.checkpoint.name} was not trained on {', '.join(unknown)}; "
            f"it knows {', '.join(sorted(known)[:8])} …"
        )
        raise ValueError(message)
    return {CONTROL: known[TARGETS[0]].control, **{name: known[name] for name in TARGETS}}


def _gain(
    perturbed: Counts, paired: Counts, apart: Counts, genes: Sequence[str], name: str
) -> PairingGain:
    arms = (perturbed, paired, apart)
    first, second, third = (screen_score(counts, genes, name) for counts in arms)
    return pairing_gain(
        *(log1p_cp10k(counts) for counts in arms),
        scores=(first, second, third),
        generator=np.random.default_rng(0),
    )
