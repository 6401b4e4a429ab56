"""The tools, the evaluation and the effects in closed form mean the same by a change."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from lingshu_model.contracts import Cells
from lingshu_model.contracts.levels import log1p_cp10k
from lingshu_model.effects import moments
from lingshu_model.evaluate.metrics import matrices
from lingshu_model.evaluate.sources import Source
from lingshu_model.evaluate.study import Condition, Contrast, Population
from lingshu_tools.analysis import expression_levels, paired_effect

CELLS, GENES = 300, 25
MEASURED = np.arange(GENES) % 8 != 5
COLUMNS = np.flatnonzero(MEASURED)


@pytest.fixture(scope="module")
def arms() -> dict[str, np.ndarray[Any, Any]]:
    """Control and perturbed counts [cells, genes] with empty cells and cells of one count."""
    generator = np.random.default_rng(11)
    rates = generator.gamma(0.5, 4, size=GENES)
    control = generator.poisson(generator.gamma(2, 0.5, size=(CELLS, 1)) * rates)
    perturbed = generator.poisson(control * generator.uniform(0.2, 2, GENES) + 0.1)
    for counts in (control, perturbed):
        counts[:, ~MEASURED] = 0
    control[3], perturbed[3], perturbed[7] = 0, 0, 0
    control[9] = np.eye(GENES, dtype=int)[0]
    return {"control": control.astype(np.int32), "perturbed": perturbed.astype(np.int32)}


def cells(counts: np.ndarray[Any, Any]) -> Cells:
    return Cells(counts, MEASURED)


def test_the_tools_and_the_evaluation_compute_the_same_effect_of_the_same_cells(
    arms: dict[str, np.ndarray[Any, Any]],
):
    tool = paired_effect(cells(arms["control"]), cells(arms["perturbed"]))
    panel = {name: sparse.csr_array(counts) for name, counts in arms.items()}
    genes = [f"G{i}" for i in COLUMNS]
    population = Population("made", genes, COLUMNS, train={}, test=panel)
    contrast = Contrast("made", "perturbed", "control", Condition({}, ()), "seen")
    source = Source([0], [population.cut(panel)], paired=True)
    evaluated = source.change(0, contrast, population)
    np.testing.assert_allclose(tool.change[MEASURED], evaluated.value, rtol=1e-12, atol=1e-14)
    assert tool.change_se is not None
    np.testing.assert_allclose(tool.change_se[MEASURED] ** 2, evaluated.noise, rtol=1e-9)
    assert np.isnan(tool.change[~MEASURED]).all()


@pytest.mark.parametrize(
    "levels",
    [
        lambda counts: expression_levels(cells(counts)),
        lambda counts: matrices.expression_levels(counts[:, COLUMNS]).toarray(),
        lambda counts: moments.expression_levels(
            moments.canonical(sparse.csr_matrix(counts[:, COLUMNS]))
        ).toarray(),
    ],
    ids=["tools", "evaluation", "effects"],
)
def test_every_part_has_the_same_levels_to_the_last_bit(
    arms: dict[str, np.ndarray[Any, Any]], levels: Callable[[Any], Any]
):
    for counts in arms.values():
        expected = log1p_cp10k(counts[:, COLUMNS], counts.sum(axis=1, keepdims=True))
        np.testing.assert_array_equal(levels(counts), expected)


def test_levels_are_logarithms_of_counts_per_ten_thousand_and_0_in_an_empty_cell():
    counts = np.array([[3, 1, 0], [0, 0, 0]])
    expected = [np.log([7501, 2501, 1]), [0, 0, 0]]
    np.testing.assert_allclose(log1p_cp10k(counts, counts.sum(axis=1, keepdims=True)), expected)
