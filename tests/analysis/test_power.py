"""The advised number of real cells shows a change in four of five experiments."""

import numpy as np
import pytest
from scipy import stats

from lingshu_model.contracts.levels import CP10K
from lingshu_tools.analysis.power import (
    FEWEST,
    LEVEL,
    MOST,
    arm_variances,
    real_cells,
)

DEPTHS = np.array([110.0, 160.0, 200.0, 250.0, 360.0])
DRAWS = 1500
GENES = [(0.04, 8.0, -2.0), (0.02, 0.6, 1.5), (0.005, 3.0, -0.8), (0.004, 0.5, 1.2)]
"""Share of UMI, size, and change of a gene."""


def levels(rng: np.random.Generator, rate: float, size: float, shape: tuple[int, int]):
    """log1p_cp10k of drawn cells, whose depths have the five quantiles of `DEPTHS`."""
    depth = np.interp(rng.random(shape), [0.05, 0.25, 0.5, 0.75, 0.95], DEPTHS)
    counts = rng.poisson(depth * rate * rng.gamma(size, 1 / size, shape))
    return np.log1p(CP10K * counts / depth)


def perturbed_rate(rate: float, size: float, change: float) -> float:
    """The share that gives a change, from drawn cells alone."""
    cells = (1, 40_000)

    def mean(each: float) -> float:
        return float(levels(np.random.default_rng(3), each, size, cells).mean())

    low, high, control = rate / 1e4, rate * 1e4, mean(rate)
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if mean(middle) - control < change else (low, middle)
    return middle


@pytest.mark.parametrize(("rate", "size", "change"), GENES)
def test_variances_are_those_of_drawn_cells(rate: float, size: float, change: float):
    rng = np.random.default_rng(1)
    both = arm_variances(rate, size, DEPTHS, change)
    rates = rate, perturbed_rate(rate, size, change)
    drawn = [levels(rng, each, size, (1, 60_000)).var() for each in rates]
    assert both == pytest.approx(drawn, rel=0.06)


@pytest.mark.parametrize(("rate", "size", "change"), GENES)
def test_the_advised_cells_have_the_power_that_is_said(rate: float, size: float, change: float):
    cells = real_cells(change, 0.0, arm_variances(rate, size, DEPTHS, change))
    assert cells is not None
    rng, n = np.random.default_rng(2), cells[0]
    arms = rate, perturbed_rate(rate, size, change)
    a, b = (levels(rng, each, size, (DRAWS, n)) for each in arms)
    passed = float((stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue < LEVEL).mean())
    assert 0.72 <= passed <= 0.9
    assert cells[1] == cells[0], "without doubt the two numbers are one"


def test_with_doubt_the_change_of_a_new_experiment_is_shown_as_often():
    change, sd, variances, rng = 1.0, 0.5, (1.2, 2.0), np.random.default_rng(4)
    cells = real_cells(change, sd, variances)
    assert cells is not None
    expected, assured = cells
    assert assured > expected
    new = rng.normal(change, sd, 200_000)
    se = (sum(variances) / assured) ** 0.5
    shown = (new + rng.normal(0, se, len(new))) > stats.norm.isf(LEVEL / 2) * se
    assert 0.8 <= shown.mean() <= 0.84


def test_where_replicates_differ_more_than_the_change_no_number_of_cells_is_enough():
    cells = real_cells(0.5, 0.6, (1.0, 1.0))
    assert cells is not None
    assert cells[0] > 0
    assert cells[1] == 0


@pytest.mark.parametrize("change", [0.0, 1e-5, float("nan")])
def test_no_change_and_one_beyond_any_experiment_have_no_number(change: float):
    assert real_cells(change, 0.1, (1.0, 1.0)) is None
    assert real_cells(-1.0, 0.1, (0.0, 0.0)) is None


def test_more_cells_for_smaller_changes_and_never_fewer_than_two():
    numbers = [real_cells(-change, 0.0, (2.0, 2.0)) for change in (0.05, 0.2, 1.0, 5.0, 1e6)]
    expected = [n[0] for n in numbers if n]
    assert expected == sorted(expected, reverse=True)
    assert len(expected) == 5
    assert FEWEST <= min(expected) <= max(expected) <= MOST


def test_a_change_beyond_what_counts_allow_is_taken_for_the_nearest():
    control, gone = arm_variances(0.02, 2.0, DEPTHS, -50.0)
    assert control > 0
    assert gone == pytest.approx(0.0, abs=1e-3)
