"""Size factors from genes without an effect, on a panel where CP10K misleads."""

import numpy as np
import pytest

from lingshu_model.contracts import Cells
from lingshu_tools.analysis import expression_levels
from lingshu_tools.analysis.composition import (
    FEWEST_COUNTS,
    changes_against,
    gene_totals,
    unresponsive_genes,
)

N_CELLS, N_GENES, FALLING = 400, 60, 6


def arms(*, rising: int = 0) -> tuple[Cells, Cells]:
    """Cells of a panel whose first six genes hold half of the UMI and fall to a tenth."""
    generator = np.random.default_rng(0)
    rates = generator.uniform(5, 30, N_GENES)
    rates[:FALLING] = 160
    moved = rates.copy()
    moved[:FALLING] *= 0.1
    moved[FALLING : FALLING + rising] *= 3
    counts = [generator.poisson(r, (N_CELLS, N_GENES)) for r in (rates, moved)]
    control, perturbed = (Cells(c, np.ones(N_GENES, bool)) for c in counts)
    return control, perturbed


def changes(control: Cells, perturbed: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Mean changes in CP10K and against genes without an effect."""
    totals = [gene_totals(cells) for cells in (control, perturbed)]
    unresponsive = unresponsive_genes(*totals, left_out=[])
    assert unresponsive is not None
    cp10k = expression_levels(perturbed).mean(0) - expression_levels(control).mean(0)
    against = changes_against(control, perturbed, unresponsive, range(N_GENES))
    return cp10k, against.mean(0)


@pytest.mark.parametrize("rising", [0, 8])
def test_genes_that_keep_their_counts_do_not_rise(rising: int):
    control, perturbed = arms(rising=rising)
    cp10k, against = changes(control, perturbed)
    still = slice(FALLING + rising, None)
    assert np.median(cp10k[still]) > 0.25
    assert abs(np.median(against[still])) < 0.1 * np.median(cp10k[still])
    assert (against[:FALLING] < -1.5).all()
    assert (against[FALLING : FALLING + rising] > 0.4).all()


def test_the_chosen_genes_are_those_in_the_middle_and_say_how_far_cp10k_misleads():
    control, perturbed = arms(rising=8)
    totals = [gene_totals(cells) for cells in (control, perturbed)]
    result = unresponsive_genes(*totals, left_out=[20])
    assert result is not None
    assert not result.genes[: FALLING + 8].any()
    assert not result.genes[20]
    inside = [t[result.genes].sum() / t.sum() for t in totals]
    assert result.share == pytest.approx(inside[0])
    assert result.shift == pytest.approx(np.log(inside[1] / inside[0]))
    assert result.shift > 0.2


def test_without_an_effect_nothing_is_shifted():
    control, _ = arms()
    cp10k, against = changes(control, control)
    assert against == pytest.approx(cp10k, abs=1e-12)


def test_too_few_genes_with_counts_give_no_size_factors():
    few = np.zeros(N_GENES)
    few[:9] = FEWEST_COUNTS
    assert unresponsive_genes(few, few, left_out=[]) is None


def test_the_totals_of_genes_are_those_of_dense_counts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lingshu_model.contracts.cells.BLOCK_COUNTS", 7 * N_GENES)
    control, _ = arms()
    assert gene_totals(control).tolist() == control.counts.sum(0).tolist()
