"""The time that is said before a training starts."""

from dataclasses import replace

import pytest

from lingshu_model.finishing.evidence import MOST_FOLDS
from lingshu_model.train.inspect import minutes
from lingshu_model.train.inspect.minutes import Machine, effects_s, multiplications, network_s
from lingshu_model.train.inspect.understanding import Understanding

REFERENCE = Machine(1, minutes.REFERENCE)


def understood(
    cells: int, genes: int, depth: float, conditions: int, contexts: int
) -> Understanding:
    return Understanding(
        file="x.h5ad",
        cells=cells,
        genes=genes,
        counts="X",
        counts_words="",
        depth=depth,
        gene_column=None,
        gene_words="",
        conditions={str(i) if i else "": 20 for i in range(conditions + 1)},
        contexts={str(i): (20, 20) for i in range(contexts)},
    )


# Seconds of one core as they were measured (benchmarks/results/own-data.csv), and what the file
# holds: cells, genes, median counts, conditions, contexts.
MEASURED = {
    "made": ((7500, 2000, 1485, 20, 2), 52.9),
    "gbm": ((5000, 300, 682, 1, 5), 21.1),
    "jurkat": ((7489, 2000, 58, 20, 2), 22.1),
    "pig": ((2722, 1339, 1178, 1, 3), 16.1),
}


@pytest.mark.parametrize("name", MEASURED)
def test_the_time_of_effects_is_right_within_a_factor_of_two(name: str):
    held, seconds = MEASURED[name]
    assert 0.5 < effects_s(understood(*held), REFERENCE) / seconds < 2.0


def test_a_busy_machine_takes_as_much_longer_as_it_multiplies_slower():
    held = understood(7500, 2000, 1485, 20, 2)
    slow = replace(REFERENCE, rate=REFERENCE.rate / 5)
    for seconds in (effects_s, lambda *a: network_s(a[0], "lingshu-1m-s13", 3, a[1])):
        assert seconds(held, slow) == pytest.approx(5 * seconds(held, REFERENCE))
    # A second core shares what can be shared.
    two = Machine(2, 2 * minutes.REFERENCE)
    assert effects_s(held, REFERENCE) / 2 < effects_s(held, two) < effects_s(held, REFERENCE)


def test_more_of_anything_takes_longer():
    held = (7500, 2000, 1485, 20, 2)
    base = effects_s(understood(*held), REFERENCE)
    for place in range(len(held)):
        more = [each * 2 if i == place else each for i, each in enumerate(held)]
        assert effects_s(understood(*more), REFERENCE) > base


def test_contexts_beyond_the_folds_that_are_made_take_no_time_of_folds():
    assert minutes._MOST_FOLDS == MOST_FOLDS
    # A context more gives effects to solve, but no fold: counts are not read again.
    few, many = (understood(7500, 2000, 1485, 20, n) for n in (12, 13))
    fewer = understood(7500, 2000, 1485, 20, 11)
    none = [replace(u, conditions={"": 20}, perturbation="gene") for u in (fewer, few, many)]
    labels = minutes._LABEL_GENE_S * 2000
    each = [effects_s(u, REFERENCE) / REFERENCE.slower for u in none]
    # Labels reach their limit with 7 contexts.
    assert each[1] - each[0] > labels
    assert each[2] == pytest.approx(each[1])


def test_the_machine_is_measured_in_less_than_a_moment(monkeypatch: pytest.MonkeyPatch):
    now = iter([0.0, 0.0, 0.1, 0.2, 0.5])
    monkeypatch.setattr(minutes.time, "perf_counter", lambda: next(now))
    # Three products are begun before the time is up, and the last of them ends after it.
    assert multiplications(4, 0.4) == pytest.approx(2 * 4**3 * 3 / 0.5)
